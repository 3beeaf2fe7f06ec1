"""Rows of annotations: what somebody says of an item. Rows are closed, never changed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from loopworks.core.values import Shape
from loopworks.store import events, items, shapes, tables, tallies
from loopworks.store.ids import batches, new_id, now

_table = tables.annotation


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One shape of one item: who said it, when, and until when it held."""

    id: str
    dataset: str
    item: str
    label: str
    source: str
    author: str
    rev: int
    event: str
    """Id of the audit event that wrote it."""
    created_at: datetime
    deleted_at: datetime | None
    place: int
    """Position within the item."""
    shape: Shape

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "id": self.id,
            "item": self.item,
            "label": self.label,
            "source": self.source,
            "author": self.author,
            "rev": self.rev,
            "event": self.event,
            "created_at": self.created_at.isoformat(),
            "deleted_at": self.deleted_at.isoformat() if self.deleted_at else None,
            "shape": self.shape.to_json(),
        }


def write(
    tx: Connection,
    dataset: str,
    labels: Mapping[str, Sequence[Shape]],
    *,
    before: Mapping[str, items.Item],
    author: str,
    at: datetime | None = None,
    op: str = "",
) -> None:
    """Give items their labels: close the rows that held until now, write new ones, and an event for each item.

    Args:
        tx: transaction.
        dataset: its id.
        labels: item id -> canonical shapes (``Task.check``); no shapes is a label too (multi-label: none of them).
        before: the items as they are now (``items.among``); those missing are new and were inserted as labeled.
        author: who does it.
        at: when; now by default.
        op: the operation that it is part of.
    """
    moment = at or now()
    with tallies.kept(tx, dataset, labels):
        _close(tx, dataset, [item for item in labels if item in before and before[item].labels], moment)
        _write(tx, dataset, labels, before, author, moment, op)


def _write(
    tx: Connection,
    dataset: str,
    labels: Mapping[str, Sequence[Shape]],
    before: Mapping[str, items.Item],
    author: str,
    moment: datetime,
    op: str,
) -> None:
    logged, written = [], []
    for item, said in labels.items():
        old = before.get(item)
        event = events.make(
            "item.label",
            dataset=dataset,
            item=item,
            author=author,
            before=_state(old),
            after=[shape.to_json() for shape in said],
            op=op,
            at=moment,
        )
        logged.append(event)
        rev = old.rev + 1 if old else 1
        written += [
            {
                "id": new_id(),
                "dataset": dataset,
                "item": item,
                "rev": rev,
                "event": event["id"],
                "created_at": moment,
                "deleted_at": None,
                **columns,
            }
            for columns in shapes.as_rows(said)
        ]
    events.add(tx, logged)
    if written:
        tx.execute(insert(_table), written)
    items.change(tx, dataset, "state", {item: "labeled" for item in labels if item in before})


def clear(tx: Connection, dataset: str, before: Mapping[str, items.Item], *, author: str, op: str = "") -> None:
    """Take the labels of the given items away; the closed rows and an event for each stay."""
    moment = now()
    labeled = {key: item for key, item in before.items() if item.state == "labeled"}
    logged = [
        events.make("item.clear", dataset=dataset, item=key, author=author, before=_state(item), at=moment, op=op)
        for key, item in labeled.items()
    ]
    events.add(tx, logged)
    with tallies.kept(tx, dataset, labeled):
        _close(tx, dataset, labeled, moment)
        items.change(tx, dataset, "state", dict.fromkeys(labeled, "unlabeled"))


def behind(tx: Connection, dataset: str, item: str, said: Iterable[Shape], frozen_at: datetime) -> list[Annotation]:
    """The rows that a frozen item's shapes were read from: for each shape the newest row from before the freeze."""
    rows = [row for row in of_item(tx, dataset, item) if row.created_at <= frozen_at]
    newest = {row.shape: row for row in rows}
    return [newest[shape] for shape in said if shape in newest]


def of_item(tx: Connection, dataset: str, item: str) -> list[Annotation]:
    """All that was ever said of an item, oldest first."""
    names = [name for name in Annotation.__dataclass_fields__ if name != "shape"]
    query = select(*(_table.c[name] for name in names), *shapes.COLUMNS[3:])
    found = tx.execute(query.where(_table.c.dataset == dataset, _table.c.item == item).order_by(_table.c.id))
    return [_annotation(dict(row._mapping), names) for row in found]


def _annotation(row: Mapping[str, Any], names: Sequence[str]) -> Annotation:
    shape = shapes.of(*(row[column.name] for column in shapes.COLUMNS))
    return Annotation(**{name: row[name] for name in names}, shape=shape)


def _close(tx: Connection, dataset: str, keys: Iterable[str], moment: datetime) -> None:
    for batch in batches(keys):
        query = update(_table).where(
            _table.c.dataset == dataset, _table.c.item.in_(batch), _table.c.deleted_at.is_(None)
        )
        tx.execute(query.values(deleted_at=moment))


def _state(item: items.Item | None) -> list[dict[str, Any]] | None:
    """The label as JSON; ``None`` where there was none."""
    if item is None or item.state != "labeled":
        return None
    return [shape.to_json() for shape in item.labels]
