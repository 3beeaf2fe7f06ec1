"""A chain whose models are loaded in an engine: each node has the queue, batches and statistics of its model."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from typing import Any

import numpy as np

from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays
from loopworks.core.errors import Cancelled, NotFound, TimedOut
from loopworks.core.values import ImageRule
from loopworks.infer.chains import graph as graphs
from loopworks.infer.chains.graph import Graph
from loopworks.infer.chains.run import Picture, Saw, packed, run
from loopworks.infer.engine import Answer, Replaced, Served


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a chain said of images."""

    values: list[dict[str, Any]]
    first: Arrays
    """The first node's output tensors."""
    queue_ns: int
    compute_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked:
    """A chain and the loaded model of each node. It has checked that they fit each other."""

    name: str
    revision: int
    graph: Graph
    models: Mapping[str, Served]
    bundles: Mapping[str, Bundle]
    pick: Callable[[str], Served]
    """The loaded model of a node, by what the graph calls it."""

    @classmethod
    def of(cls, name: str, revision: int, graph: Graph, pick: Callable[[str], Served]) -> "Linked":
        """Find the models and check them; ``Invalid`` and ``NotFound`` as for ``graph.check``."""
        models = {}
        for node, ref in graph.nodes.items():
            try:
                models[node] = pick(ref)
            except NotFound as error:
                raise NotFound(f"model of node {node!r} of chain {name!r}", ref, hint=error.message) from error
        bundles = {node: served.bundle for node, served in models.items()}
        graphs.check(graph, bundles)  # a deployment may have got another model since the chain was added
        return cls(name=name, revision=revision, graph=graph, models=models, bundles=bundles, pick=pick)

    @property
    def ref(self) -> str:
        """As ids of predictions begin: ``NAME/REVISION``."""
        return f"{self.name}/{self.revision}"

    @property
    def first(self) -> Served:
        """The model that gets the image."""
        return self.models[self.graph.first]

    @property
    def rule(self) -> ImageRule:
        """How the first model takes images."""
        rule = self.first.bundle.rule
        assert isinstance(rule, ImageRule)  # ``graph.check`` has seen to it
        return rule

    def authors(self) -> dict[str, str]:
        """Node -> the model behind it, as NAME:NUMBER."""
        return {node: f"{one.facts.get('model', one.name)}:{one.facts.get('number', one.version)}"
                for node, one in self.models.items()}  # fmt: skip

    def answer(
        self,
        asked: Sequence[Picture],
        tensors: Arrays | None = None,
        *,
        limit_s: float,
        stopped: Callable[[], bool] = lambda: False,
        saw: Saw | None = None,
    ) -> Said:
        """What it says of images.

        Args:
            asked: the images.
            tensors: the same, packed by ``rule``, where somebody has done so.
            limit_s: how long all of it may take.
            stopped: whether nobody listens any more; asked before each node.
            saw: as for ``run``.
        Raises:
            Invalid: an image that cannot be read.
            Replaced: a model was replaced meanwhile: link anew, and ask again.
            Busy, TimedOut, Failed, Cancelled: a model could not answer.
        """
        until = time.monotonic() + limit_s
        first: list[Arrays] = []
        queue_ns = compute_ns = 0

        def ask(node: str, inputs: Arrays) -> Arrays:
            nonlocal queue_ns, compute_ns
            if stopped():
                raise Cancelled("the client went away before the answer")
            left = max(0.001, until - time.monotonic())
            future = self._submit(node, inputs, left)
            try:
                found = future.result(left)
            except Late:
                future.cancel()
                raise TimedOut(
                    f"chain {self.name!r} must answer within {limit_s:.3g} s; got nothing from node {node!r}",
                    "try again later, or wait longer",
                ) from None
            queue_ns += found.queue_ns
            compute_ns += found.compute_ns
            if node == self.graph.first:
                first.append(found.outputs)
            return found.outputs

        given = packed(self.rule, asked) if tensors is None else tensors
        values = run(self.graph, self.bundles, asked, given, ask, saw)
        return Said(values=values, first=_joined(first), queue_ns=queue_ns, compute_ns=compute_ns)

    def _submit(self, node: str, inputs: Arrays, limit_s: float) -> "Future[Answer]":
        served = self.models[node]
        while True:
            try:
                return served.submit(inputs, limit_s)
            except Replaced:
                fresh = self.pick(self.graph.nodes[node])
                if (fresh.name, fresh.version) != (served.name, served.version):
                    raise
                served = fresh  # it had made room for others, and is loaded again


def _joined(parts: Sequence[Arrays]) -> Arrays:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
