"""The audit log: who changed what, from what, to what. Rows are added and never touched again."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.engine import Connection

from loopworks.store import tables
from loopworks.store.ids import new_id, now

_table = tables.event


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One change. ``before`` and ``after`` are plain JSON whose form depends on ``kind``."""

    id: str
    at: datetime
    kind: str  # dataset.create, dataset.classes, item.label, item.clear, item.split, version.freeze ...
    dataset: str
    item: str
    author: str
    before: Any
    after: Any
    op: str = ""
    """The operation that it is part of, so that the whole of it can be undone."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "id": self.id,
            "at": self.at.isoformat(),
            "kind": self.kind,
            "item": self.item,
            "author": self.author,
            "before": self.before,
            "after": self.after,
            "op": self.op,
        }


def make(
    kind: str,
    *,
    dataset: str = "",
    item: str = "",
    author: str = "",
    before: Any = None,
    after: Any = None,
    at: datetime | None = None,
    op: str = "",
) -> dict[str, Any]:
    """A row for ``add``."""
    return {
        "id": new_id(),
        "at": at or now(),
        "kind": kind,
        "dataset": dataset,
        "item": item,
        "author": author,
        "before": before,
        "after": after,
        "op": op,
    }


def add(tx: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows."""
    if rows:
        tx.execute(insert(_table), list(rows))


def of_item(tx: Connection, dataset: str, item: str) -> list[Event]:
    """All changes of an item, oldest first."""
    query = select(_table).where(_table.c.dataset == dataset, _table.c.item == item).order_by(_table.c.id)
    return [Event(**row._mapping) for row in tx.execute(query)]


def latest(tx: Connection, dataset: str) -> dict[str, str]:
    """Item -> id of its newest change; ids sort by time."""
    query = select(_table.c.item, func.max(_table.c.id)).where(_table.c.dataset == dataset, _table.c.item != "")
    return {row[0]: row[1] for row in tx.execute(query.group_by(_table.c.item))}
