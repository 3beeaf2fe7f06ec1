"""A chain: models of images that ask each other, as a small graph in YAML.

```yaml
nodes:
  find: street-things          # a deployment, or a model as NAME:NUMBER
  kind: vehicle-kind
  other: anything
edges:
  - {from: find, to: kind, label: [car, van], score: 0.6, size: 32, margin: 0.1}
  - {from: find, to: other, else: true}
```

It needs the standard library alone: an edge bundle holds it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from loopworks.core.bundle import Bundle
from loopworks.core.errors import Invalid, NotFound
from loopworks.core.fields import Fields
from loopworks.core.values import ImageRule

MOST_NODES = 32
MOST_CROPS = 100
"""Things of one answer that an edge passes on, the first ones, where it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """What of one node's answer the next one looks at."""

    source: str
    to: str
    labels: tuple[str, ...] = ()
    """Classes that are passed on; empty: all."""
    score: float = 0.0
    """Least score, in 0..1."""
    size: int = 1
    """Least side of the crop, in pixels of the image."""
    margin: float = 0.0
    """What is added on each side of a box, as a share of its width and height, in 0..1."""
    most: int = MOST_CROPS
    is_else: bool = False
    """Whether it passes on only what no other edge of its node does, of those that are no such edges."""

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {
            "from": self.source,
            "to": self.to,
            "label": list(self.labels),
            "score": self.score,
            "size": self.size,
            "margin": self.margin,
            "most": self.most,
            **({"else": True} if self.is_else else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A checked chain."""

    nodes: Mapping[str, str]
    """Name -> deployment, or model as NAME:NUMBER."""
    edges: tuple[Edge, ...]
    order: tuple[str, ...]
    """Every node after those that it gets its crops from; the first one gets the image."""

    @property
    def first(self) -> str:
        """The node that gets the image."""
        return self.order[0]

    def out_of(self, node: str) -> list[Edge]:
        """The edges that lead on from a node."""
        return [edge for edge in self.edges if edge.source == node]

    def into(self, node: str) -> list[Edge]:
        """The edges that lead to a node."""
        return [edge for edge in self.edges if edge.to == node]

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {"nodes": dict(self.nodes), "edges": [edge.to_json() for edge in self.edges]}


def read(body: Any, name: str = "chain") -> Graph:
    """The chain that ``to_json`` wrote, or a file says.

    Raises: Invalid, NotFound: naming the field; a cycle, a node that nothing leads to, or more than one first node.
    """
    fields = Fields(Fields.of(body, name).body, f"{name} ")
    _only(fields, ("nodes", "edges"))
    listed = fields.object("nodes")
    if not 1 <= len(listed) <= MOST_NODES:
        raise Invalid(fields.path("nodes"), f"1 to {MOST_NODES} nodes", len(listed))
    for node, model in listed.items():
        if not (isinstance(node, str) and node and isinstance(model, str) and model):
            raise Invalid(fields.path(f"nodes.{node}"), "the name of a deployment or model", model)
    edges = fields.each("edges", _edge) if "edges" in fields.body else ()
    for edge in edges:
        for end in (edge.source, edge.to):
            if end not in listed:
                raise NotFound(f"node of {name}", end, listed)
        if edge.is_else and all(other.is_else for other in edges if other.source == edge.source):
            what = f"edge with else from node {edge.source!r}"
            raise Invalid(what, "beside one without", "none", "leave else out where all is passed on")
    return Graph(nodes=listed, edges=edges, order=_order(listed, edges, name))


def check(graph: Graph, bundles: Mapping[str, Bundle]) -> None:
    """Whether the models behind the nodes fit each other.

    Raises: Invalid: a node is none for images. NotFound: a class that the node before does not know.
    """
    for node, bundle in bundles.items():
        if not isinstance(bundle.rule, ImageRule):
            raise Invalid(f"node {node!r}", "a model of images", f"{graph.nodes[node]}, for media {bundle.rule.media}")
    for edge in graph.edges:
        known = bundles[edge.source].schema.classes
        for label in edge.labels:
            if label not in known:
                raise NotFound(f"class of node {edge.source!r}", label, known)


def _edge(body: Any, where: str) -> Edge:
    fields = Fields.of(body, where)
    _only(fields, ("from", "to", "label", "score", "size", "margin", "most", "else"))
    label = fields.body.get("label", [])
    labels = (label,) if isinstance(label, str) else label
    if not isinstance(labels, list | tuple) or not all(isinstance(one, str) for one in labels):
        raise Invalid(
            fields.path("label"), "a class or a list of them", label, "YAML takes yes and 1 for no texts: quote them"
        )

    def share(key: str) -> float:
        found = fields.number(key) if key in fields.body else 0.0
        if not 0 <= found <= 1:
            raise Invalid(fields.path(key), "in 0..1", found)
        return found

    return Edge(
        source=fields.text("from"),
        to=fields.text("to"),
        labels=tuple(labels),
        score=share("score"),
        margin=share("margin"),
        size=fields.whole("size", 1) if "size" in fields.body else 1,
        most=fields.whole("most", 1) if "most" in fields.body else MOST_CROPS,
        is_else=fields.flag("else") if "else" in fields.body else False,
    )


def _order(nodes: Mapping[str, str], edges: Sequence[Edge], name: str) -> tuple[str, ...]:
    before: dict[str, set[str]] = {node: set() for node in nodes}
    for edge in edges:
        before[edge.to].add(edge.source)
    try:
        order = tuple(TopologicalSorter(before).static_order())
    except CycleError as error:
        raise Invalid(f"edges of {name}", "without a cycle", " -> ".join(reversed(error.args[1]))) from None
    first = [node for node in nodes if not before[node]]
    if len(first) > 1:
        raise Invalid(f"{name}", "of one first node, to which no edge leads", ", ".join(first))
    return order


def _only(fields: Fields, known: Sequence[str]) -> None:
    for key in fields.body:
        if key not in known:
            raise Invalid(fields.path(str(key)), f"one of {', '.join(known)}", key)
