"""The part of a workspace that asks chains: several models behind one name."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from loopworks.answering import Answering
from loopworks.core import image
from loopworks.core.bundle import Bundle
from loopworks.core.content import read_file
from loopworks.core.contracts import Arrays
from loopworks.core.errors import Invalid, NotFound
from loopworks.core.values import Problem
from loopworks.infer import local, shown
from loopworks.infer.chains import drawn, file
from loopworks.infer.chains import graph as graphs
from loopworks.infer.chains.graph import Graph
from loopworks.infer.chains.run import pictures, run
from loopworks.infer.live import nested
from loopworks.infer.live.frames import Found
from loopworks.store import chains
from loopworks.store.chains import Chain


class Chaining(Answering):
    """Chains of a workspace; see ``infer.chains.graph`` for what they are made of."""

    def add_chain(self, name: str, source: str | Path, *, author: str = "") -> Chain:
        """Add a chain, or change it: a new revision, unless the graph is the same.

        Args:
            name: that answers requests; not a deployment's.
            source: YAML, or the path of a file of it.
            author: who does it.
        Raises: Invalid, NotFound, Conflict: what does not fit, and where.
        """
        text = source
        if isinstance(source, Path):
            try:
                text = read_file(source).decode("utf-8")
            except UnicodeDecodeError as error:
                raise Invalid(str(source), "text in UTF-8", str(error)) from None
        graph = self._pinned(file.parse(str(text), f"chain {name}"))
        graphs.check(graph, self.chain_bundles(graph))
        with self.home.catalog.begin() as tx:
            return chains.put(tx, name, graph.to_json(), author=author)

    def rollback_chain(self, name: str, revision: int | None = None, *, author: str = "") -> Chain:
        """Let the graph before, or that of a revision, be the chain's again; it becomes a new revision.

        Raises: NotFound, Invalid: no such revision, or its models are gone or do not fit each other any more.
        """
        with self.home.catalog.begin() as tx:
            done = chains.rollback(tx, name, revision, author=author)
            graph = graphs.read(done.graph, f"chain {name}")
            graphs.check(graph, self.chain_bundles(graph))  # what it raises undoes the change
            return done

    def chain_history(self, name: str) -> list[Chain]:
        """All revisions of a chain, oldest first, also of one that was removed; ``NotFound`` where there is none."""
        with self.home.catalog.read() as tx:
            return chains.history(tx, name) or [chains.get(tx, name)]

    def chains(self) -> list[Chain]:
        """All chains, by name."""
        with self.home.catalog.read() as tx:
            return chains.every(tx)

    def chain(self, name: str, revision: int | None = None) -> Chain:
        """The chain called ``name``, or one of its revisions; ``NotFound`` lists those that exist."""
        with self.home.catalog.read() as tx:
            return chains.get(tx, name, revision)

    def remove_chain(self, name: str) -> Chain:
        """Take a chain away; its models stay as they are, and its revisions on record."""
        with self.home.catalog.begin() as tx:
            return chains.remove(tx, name)

    def draw_chain(self, chain: Chain) -> str:
        """A chain as text: its nodes with the models behind them, its edges with their conditions."""
        graph = graphs.read(chain.graph, f"chain {chain.name}")
        authors = {}
        for node, ref in graph.nodes.items():
            try:
                authors[node] = self._behind(ref)[0]
            except NotFound:
                authors[node] = "nothing"
        return drawn.tree(graph, authors)

    def chain_bundles(self, graph: Graph) -> dict[str, Bundle]:
        """The model behind every node."""
        return {node: self.bundle(self._behind(ref)[0]) for node, ref in graph.nodes.items()}

    def predict_many(
        self, deployment: str, sources: Sequence[local.Asked], *, batch: int = 32
    ) -> tuple[list[dict[str, Any]], list[Problem]]:
        """Answers for many items (the path of a CSV, TSV, JSON or Parquet file stands for all of its rows), in order.

        Those that cannot be read are listed and left out. Of a chain, labels hold the next models' answers in ``then``.
        """
        with self.home.catalog.read() as tx:
            chain = chains.find(tx, deployment)
        if chain is None:
            return super().predict_many(deployment, sources, batch=batch)
        limit = self.settings.max_image_pixels
        graph = graphs.read(chain.graph, f"chain {chain.name}")
        bundles = self.chain_bundles(graph)
        graphs.check(graph, bundles)  # a deployment may have got another model since
        used = {node: self._behind(ref)[1] for node, ref in graph.nodes.items()}

        def ask(node: str, inputs: Arrays) -> Arrays:
            return self._predictor(bundles[node], used[node]).predict(inputs)

        found, problems = local.load(sources, "image", limit)
        answers: list[dict[str, Any]] = []
        for at in range(0, len(found), batch):
            good, tensors, bad = local.packed(bundles[graph.order[0]].rule, found[at : at + batch], limit)
            problems += bad
            if good:
                said = run(graph, bundles, pictures(good, limit), tensors, ask)
                answers += [
                    {"id": chain.prediction(one.item), "name": one.name, "item": one.item, **answer}
                    for one, answer in zip(good, said, strict=True)
                ]
        return answers, problems

    def draw(self, deployment: str, source: local.Asked) -> bytes:
        """A picture (PNG) of an image with what a deployment or chain says of it, as ``Answering.draw``."""
        with self.home.catalog.read() as tx:
            chain = chains.find(tx, deployment)
        if chain is None:
            return super().draw(deployment, source)
        graph = graphs.read(chain.graph, f"chain {chain.name}")
        model, variant = self._behind(graph.nodes[graph.first])
        bundle, limit = self.bundle(model), self.settings.max_image_pixels
        answer = self.predict(deployment, source)
        found, _ = local.load([source], "image", limit)
        outputs = self.answer(bundle, [found[0].content], variant)
        said = shown.Said(bundle=bundle, author=model, items=found, outputs=outputs, values=(), max_pixels=limit)
        pixels = shown.drawn(said)
        width, _ = found[0].size or (pixels.shape[1], 0)
        objects = [
            Found(label=row["label"], score=row["score"], then=row.get("then", {}))
            for row in answer.get("labels", answer.get("regions", ()))
        ]
        return image.encode_png(nested.draw(pixels, objects, pixels.shape[1] / width))

    def _pinned(self, graph: Graph) -> Graph:
        """The graph with every model by its number, so that a new one does not change a chain unasked."""
        nodes = {}
        for node, ref in graph.nodes.items():
            try:
                nodes[node] = ref if ref in {d.name for d in self.deployments()} else self.model(ref).ref
            except NotFound:
                known = sorted({d.name for d in self.deployments()} | {m.name for m in self.models()})
                raise NotFound(f"deployment or model of node {node!r}", ref, known) from None
        return replace(graph, nodes=nodes)

    def _behind(self, ref: str) -> tuple[str, str]:
        """Model and variant of a node; of a model no variant, which is the chosen one."""
        if ":" in ref:
            return ref, ""
        used = self.deployment(ref)
        return f"{used.model}:{used.number}", used.variant
