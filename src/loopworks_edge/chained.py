"""A chain in an edge bundle: its graph, and the model of every node."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopworks.core import bundle as bundles
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle
from loopworks.core.content import read_file
from loopworks.core.contracts import Arrays, Predictor
from loopworks.core.errors import Invalid, NotFound
from loopworks.core.fields import Fields
from loopworks.core.values import ImageRule, Problem
from loopworks.infer import items
from loopworks.infer.chains import graph as graphs
from loopworks.infer.chains import tensors
from loopworks.infer.chains.graph import Graph
from loopworks.infer.chains.run import Picture, packed, pictures, run
from loopworks_edge.manifest import CHAIN, Manifest
from loopworks_edge.model import Edge

if TYPE_CHECKING:
    from loopworks.infer.chains.linked import Linked
    from loopworks.infer.engine import Engine

FILE = "chain.json"
"""The graph, and which folder holds the model of a node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The model of a node."""

    model: str
    number: int
    variant: str
    folder: str
    """Inside the bundle; nodes of one model and variant share it."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"model": self.model, "number": self.number, "variant": self.variant, "folder": self.folder}


def written(graph: Graph, nodes: Mapping[str, Node]) -> str:
    """The content of ``chain.json``."""
    body = {"graph": graph.to_json(), "nodes": {name: node.to_json() for name, node in nodes.items()}}
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeChain(Edge):
    """A checked edge bundle of a chain; ``bundle`` is the model that gets the image."""

    graph: Graph
    nodes: Mapping[str, Node]
    bundles: Mapping[str, Bundle]

    def variant(self, name: str = "") -> str:
        """What answers, which is one thing; ``NotFound`` where another is asked for."""
        if name not in ("", CHAIN):
            raise NotFound("variant of a chain", name, [CHAIN])
        return CHAIN

    def size_bytes(self, variant: str) -> int:
        """Of all its models' files."""
        files = set()
        for name, bundle in self.bundles.items():
            found = bundle.variant(self.nodes[name].variant)
            files |= {bundle.path(file) for file in (found.file, *found.files)}
        return sum(path.stat().st_size for path in files)

    def load(self, variant: str = "", *, threads: int = 0) -> "ChainPredictor":
        """All its models; ``threads`` 0 is one per core."""
        self.variant(variant)
        loaded: dict[str, Predictor] = {}
        try:
            for name, node in self.nodes.items():
                if node.folder not in loaded:
                    bundle = self.bundles[name]
                    chosen = bundle.variant(node.variant)
                    loaded[node.folder] = predictors.load(chosen, bundle.folder, bundle.rule, threads=threads)
        except BaseException:
            for one in loaded.values():
                one.close()
            raise
        return ChainPredictor(self, {name: loaded[node.folder] for name, node in self.nodes.items()})

    def into(self, engine: "Engine", variant: str = "") -> "Linked":
        """Load all its models into an engine; it answers under its own name alone."""
        from loopworks.infer.chains.linked import Linked

        self.variant(variant)
        for name, node in self.nodes.items():
            ref, facts = self.graph.nodes[name], {"model": node.model, "number": node.number}
            if ref not in engine.names():
                engine.load(ref, self.bundles[name], variant=node.variant, version=str(node.number), facts=facts)
        return Linked.of(self.manifest.name, self.manifest.revision, self.graph, engine.model)

    def predict(
        self, predictor: Predictor, asked: Sequence[items.Asked], *, batch: int = 32
    ) -> tuple[list[dict[str, Any]], list[Problem]]:
        """Answers for images (paths, or the bytes of files), and what cannot be read."""
        assert isinstance(predictor, ChainPredictor)
        limit = self.manifest.max_pixels
        found, problems = self.read(asked)
        answers: list[dict[str, Any]] = []
        for at in range(0, len(found), batch):
            good, first, bad = items.packed(self.bundle.rule, found[at : at + batch], limit)
            problems += bad
            if good:
                said = predictor.ask(pictures(good, limit), first)
                answers += [self.prediction(one, value) for one, value in zip(good, said, strict=True)]
        return answers, problems


class ChainPredictor:
    """The loaded models of a chain: takes and gives the tensors that the inference protocol sees."""

    def __init__(self, edge: EdgeChain, loaded: Mapping[str, Predictor]) -> None:
        """Ask ``loaded``, by node."""
        self._edge, self._loaded = edge, loaded
        self.rows: Counter[str] = Counter()
        """Node -> images or crops that it was asked about."""

    def predict(self, batch: Arrays, /) -> Arrays:
        """``answer`` for each ``image`` or ``file``."""
        images, loaded = tensors.pictures(batch, self._edge.manifest.max_pixels)
        return tensors.answers(self._edge.manifest.ref, self.ask(images), loaded)

    def ask(self, images: Sequence[Picture], first: Arrays | None = None) -> list[dict[str, Any]]:
        """One answer per image; ``first``: the images packed for the first node, where somebody has done so."""
        rule = self._edge.bundle.rule
        assert isinstance(rule, ImageRule)  # ``graph.check`` has seen to it
        given = packed(rule, images) if first is None else first
        return run(self._edge.graph, self._edge.bundles, images, given, self._ask)

    def close(self) -> None:
        """Free the models."""
        for one in {id(one): one for one in self._loaded.values()}.values():
            one.close()

    def _ask(self, node: str, inputs: Arrays) -> Arrays:
        self.rows[node] += len(next(iter(inputs.values())))
        return self._loaded[node].predict(inputs)


def open(folder: Path, found: Manifest) -> EdgeChain:
    """The chain in ``folder``, whose files have been checked.

    Raises: Invalid, NotFound: ``chain.json`` is not one.
    """
    try:
        body = json.loads(read_file(folder / FILE))
    except (ValueError, RecursionError) as error:
        raise Invalid(FILE, "JSON in UTF-8", str(error)) from None
    fields = Fields(Fields.of(body, FILE).body, f"{FILE} ")
    graph = graphs.read(fields.any("graph"), FILE)
    nodes = fields.values("nodes", _node)
    if set(nodes) != set(graph.nodes):
        raise Invalid(fields.path("nodes"), f"those of the graph ({', '.join(graph.nodes)})", ", ".join(nodes))
    read = {}
    for name, node in nodes.items():
        where = f"{node.folder}/{bundles.FILE}"
        if where not in found.sha256:
            raise Invalid(fields.path(f"nodes.{name}.folder"), "one of the bundle", node.folder)
        read[name] = bundles.read(folder / node.folder, verify=False)
        read[name].variant(node.variant)
    graphs.check(graph, read)
    return EdgeChain(manifest=found, bundle=read[graph.first], graph=graph, nodes=nodes, bundles=read)


def _node(body: Any, where: str) -> Node:
    fields = Fields.of(body, where)
    return Node(
        model=fields.text("model"),
        number=fields.whole("number"),
        variant=fields.text("variant"),
        folder=fields.text("folder"),
    )
