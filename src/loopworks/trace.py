"""Lineage: from a result back to the labels behind it."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from loopworks.core.errors import Invalid, NotFound
from loopworks.core.values import LineageNode
from loopworks.store import chains, lineage
from loopworks.store.chains import Chain
from loopworks.store.deployments import Deployment
from loopworks.store.lineage import Node
from loopworks.store.models import Model

if TYPE_CHECKING:
    from loopworks.workspace import Workspace


@dataclass(slots=True)
class Trace:
    """Walks from a result back to the labels behind it."""

    space: "Workspace"
    nodes: list[LineageNode] = field(default_factory=list)

    def of(self, what: str) -> list[LineageNode]:
        """The chain that begins with ``what``."""
        if what.count("/") == 2:
            self._prediction(what)
        elif what in {chain.name for chain in self.space.chains()}:
            self._chain(self.space.chain(what))
        elif ":" in what or "@" in what:
            self._model(self.space.model(what))
        elif what in {d.name for d in self.space.deployments()}:
            self._deployment(self.space.deployment(what))
        elif what in {d["name"] for d in self.space.datasets()}:
            self._dataset(what)
        else:
            self._version(what)
        return self.nodes

    def _add(self, kind: str, id: str, **facts: Any) -> None:
        self.nodes.append(LineageNode(kind=kind, id=id, facts={k: _plain(v) for k, v in facts.items()}))

    def _prediction(self, what: str) -> None:
        name, revision, item = what.split("/")
        if not revision.isdigit():
            raise Invalid("prediction id", "DEPLOYMENT/REVISION/ITEM", what)
        try:
            found: Deployment | Chain = self.space.deployment(name, int(revision))
        except NotFound:
            with self.space.home.catalog.read() as tx:
                if not chains.history(tx, name):
                    raise
                found = chains.get(tx, name, int(revision))
        self._add("prediction", what, item=item)
        if isinstance(found, Chain):
            self._chain(found)
        else:
            self._deployment(found)

    def _chain(self, chain: Chain) -> None:
        """Its nodes with what is behind them now, each with its model."""
        self._add("chain", chain.ref, made=chain.created_at, author=chain.author, nodes=len(chain.graph["nodes"]))
        for node, ref in chain.graph["nodes"].items():
            self._add("node", f"{chain.name}.{node}", asks=ref)
            if ":" in ref:
                self._model(self.space.model(ref))
            else:
                self._deployment(self.space.deployment(ref))

    def _deployment(self, used: Deployment) -> None:
        self._add("deployment", used.ref, variant=used.variant, since=used.created_at, **self._askers(used.name))
        self._model(self.space.model(f"{used.model}:{used.number}"))

    def _model(self, model: Model) -> None:
        with self.space.home.catalog.read() as tx:
            jobs = [edge.id for edge in lineage.sources(tx, Node("model", model.ref)) if edge.kind == "job"]
        scores = model.metrics.get("test") or model.metrics.get("val") or {}
        shown = {name: round(score["value"], 4) for name, score in list(scores.items())[:1]}
        facts = {**shown, **self._askers(model.ref)}
        self._add("model", model.ref, made=model.created_at, job=", ".join(jobs), run=model.run, **facts)
        if model.parent:
            self._model(self.space.model(model.parent))
        elif model.version:
            self._version(model.version)

    def _askers(self, ref: str) -> dict[str, str]:
        """Which chains ask a deployment or model, where there are any."""
        with self.space.home.catalog.read() as tx:
            names = ", ".join(chain.name for chain in chains.using(tx, ref))
        return {"chains": names} if names else {}

    def _version(self, id: str) -> None:
        version = self.space.version(id)
        counts = version.counts
        self._add(
            "version", version.id[:12], dataset=version.dataset, message=version.message, items=counts["items"],
            frozen=version.created_at,
        )  # fmt: skip
        for who in version.authors():
            self._add("labels", who.author or who.source, count=who.count, source=who.source)

    def _dataset(self, name: str) -> None:
        dataset = self.space.dataset(name)
        self._add("dataset", name, items=dataset.counts()["items"])
        for version in dataset.versions():
            self._add("version", version.id[:12], message=version.message, items=version.counts["items"])


def _plain(value: object) -> object:
    return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else value
