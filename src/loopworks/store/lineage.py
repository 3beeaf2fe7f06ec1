"""Edges of what was made from what: ``from`` is the source, ``to`` is what came out of it."""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import insert, select
from sqlalchemy.engine import Connection

from loopworks.store import tables
from loopworks.store.ids import now

_table = tables.lineage


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """One thing: its kind (dataset, version, run, model, deployment, job ...) and id."""

    kind: str
    id: str


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """``target`` was made from ``source``."""

    source: Node
    target: Node


def link(tx: Connection, source: Node, target: Node) -> None:
    """Record that ``target`` was made from ``source``; saying it twice changes nothing."""
    edge = {"from_kind": source.kind, "from_id": source.id, "to_kind": target.kind, "to_id": target.id}
    if not tx.execute(select(_table.c.at).filter_by(**edge)).first():
        tx.execute(insert(_table).values(**edge, at=now()))


def sources(tx: Connection, node: Node) -> list[Node]:
    """What ``node`` was made from, one step back."""
    query = select(_table.c.from_kind, _table.c.from_id).filter_by(to_kind=node.kind, to_id=node.id)
    return sorted(Node(*row) for row in tx.execute(query))


def targets(tx: Connection, node: Node) -> list[Node]:
    """What was made from ``node``, one step on."""
    query = select(_table.c.to_kind, _table.c.to_id).filter_by(from_kind=node.kind, from_id=node.id)
    return sorted(Node(*row) for row in tx.execute(query))


def back(tx: Connection, node: Node) -> list[Edge]:
    """All edges behind ``node``, nearest first; each edge once, also where ways meet."""
    return _follow(node, lambda at: [Edge(source, at) for source in sources(tx, at)], lambda edge: edge.source)


def on(tx: Connection, node: Node) -> list[Edge]:
    """All edges that lead on from ``node``, nearest first."""
    return _follow(node, lambda at: [Edge(at, target) for target in targets(tx, at)], lambda edge: edge.target)


def _follow(node: Node, step: Callable[[Node], list[Edge]], end: Callable[[Edge], Node]) -> list[Edge]:
    found: list[Edge] = []
    seen = {node}
    front = [node]
    while front:
        edges = [edge for at in front for edge in step(at)]
        found += edges
        front = sorted({end(edge) for edge in edges} - seen)
        seen.update(front)
    return found
