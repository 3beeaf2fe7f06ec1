"""Rows of items: what there is to learn from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any, Literal, TypeVar

from sqlalchemy import and_, bindparam, func, insert, or_, select, update
from sqlalchemy.engine import Connection

from loopworks.core.errors import Invalid, NotFound
from loopworks.core.values import Shape
from loopworks.store import tables

_table = tables.item
_live = tables.annotation.c.deleted_at.is_(None)
T = TypeVar("T")
State = Literal["all", "labeled", "unlabeled"]
SPLITS = ("train", "val", "test")
BATCH = 500  # ids in one IN list: SQLite and PostgreSQL both take far more, but compiling it costs time


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item and its label as it is now."""

    dataset: str
    id: str
    """SHA-256 of the bytes, in hex."""
    name: str
    """Path as imported, relative to the folder that was given."""
    blob: str
    """Key of the bytes; empty for an item by reference."""
    uri: str
    """Where the bytes of an item by reference lie."""
    stamp: str
    """Size and time of that file as first seen."""
    mime: str
    width: int
    height: int
    size_bytes: int
    split: str
    """train, val, test, or empty: not split yet."""
    state: str
    """unlabeled or labeled."""
    added_at: datetime
    rev: int
    """Counts the changes of label and split; give it back to change only what you saw."""
    labels: tuple[Shape, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "id": self.id,
            "name": self.name,
            "uri": self.uri,
            "mime": self.mime,
            "width": self.width,
            "height": self.height,
            "size_bytes": self.size_bytes,
            "split": self.split,
            "state": self.state,
            "added_at": self.added_at.isoformat(),
            "rev": self.rev,
            "labels": [shape.to_json() for shape in self.labels],
        }


def batches(values: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    """The values in lists of at most ``size``."""
    rest = iter(values)
    while batch := list(islice(rest, size)):
        yield batch


def add(tx: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert items that are not there yet (see ``among``)."""
    if rows:
        tx.execute(insert(_table), [dict(row) for row in rows])


def among(tx: Connection, dataset: str, ids: Iterable[str]) -> dict[str, Item]:
    """Those of ``ids`` that exist, with their labels."""
    found: dict[str, Item] = {}
    for batch in batches(ids):
        query = select(_table).where(_table.c.dataset == dataset, _table.c.id.in_(batch))
        found |= {item.id: item for item in _with_labels(tx, dataset, tx.execute(query).all())}
    return found


def get(tx: Connection, dataset: str, item: str) -> Item:
    """An item by its id, the beginning of it, or its name (path as imported).

    Raises:
        NotFound: no such item.
        Invalid: several items begin like that, or have that name.
    """
    query = select(_table).where(_table.c.dataset == dataset)
    rows = list(tx.execute(query.where(_table.c.name == item).limit(2)))
    if not rows and item and set(item) <= set("0123456789abcdef"):
        rows = list(tx.execute(query.where(*_begins(item)).limit(2)))
    if not rows:
        raise NotFound("item", item, hint="loopworks data ls shows the items; an item's name or id's beginning will do")
    if len(rows) > 1:
        raise Invalid("item", "the name or the beginning of the id of one item", f"{item}, which fits several")
    return _with_labels(tx, dataset, rows)[0]


def page(
    tx: Connection,
    dataset: str,
    *,
    state: State = "all",
    split: str | None = None,
    label: str | None = None,
    limit: int = 100,
    after: str | None = None,
) -> list[Item]:
    """Items by name, a page at a time.

    Args:
        tx: transaction.
        dataset: its id.
        state: only those with, or without, a label.
        split: only those of train, val or test; empty text: those that have no split yet.
        label: only those that carry this class.
        limit: at most so many.
        after: id of the last item of the page before.
    """
    query = select(_table).where(_table.c.dataset == dataset)
    if state != "all":
        query = query.where(_table.c.state == state)
    if split is not None:
        query = query.where(_table.c.split == split)
    if label is not None:
        said = tables.annotation
        carries = select(said.c.item).where(said.c.dataset == dataset, said.c.label == label, _live)
        query = query.where(_table.c.id.in_(carries))
    if after is not None:
        last = get(tx, dataset, after)
        beyond = and_(_table.c.name == last.name, _table.c.id > last.id)
        query = query.where(or_(_table.c.name > last.name, beyond))
    query = query.order_by(_table.c.name, _table.c.id).limit(limit)
    return _with_labels(tx, dataset, tx.execute(query).all())


def counts(tx: Connection, dataset: str) -> dict[str, Any]:
    """``items``, ``labeled``, ``unlabeled``, ``by_split`` (of all items, empty text: no split), ``by_class``."""
    query = (
        select(_table.c.state, _table.c.split, func.count())
        .where(_table.c.dataset == dataset)
        .group_by(_table.c.state, _table.c.split)
    )
    by_state = {"labeled": 0, "unlabeled": 0}
    by_split: dict[str, int] = {}
    for state, split, count in tx.execute(query):
        by_state[state] += count
        by_split[split] = by_split.get(split, 0) + count
    said = tables.annotation
    query_classes = (
        select(said.c.label, func.count(said.c.item.distinct()))
        .where(said.c.dataset == dataset, _live)
        .group_by(said.c.label)
        .order_by(said.c.label)
    )
    by_class = {row[0]: row[1] for row in tx.execute(query_classes)}
    return {
        "items": sum(by_state.values()),
        **by_state,
        "by_split": dict(sorted(by_split.items())),
        "by_class": by_class,
    }


def labeled_splits(tx: Connection, dataset: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Of all labelled items: id -> classes, and id -> split (empty text: none yet)."""
    query = select(_table.c.id, _table.c.split).where(_table.c.dataset == dataset, _table.c.state == "labeled")
    splits = {row[0]: row[1] for row in tx.execute(query)}
    labels: dict[str, list[str]] = {item: [] for item in splits}
    said = tables.annotation
    for item, label in tx.execute(select(said.c.item, said.c.label).where(said.c.dataset == dataset, _live)):
        labels[item].append(label)
    return labels, splits


def set_splits(tx: Connection, dataset: str, splits: Mapping[str, str]) -> None:
    """Put items into splits (item id -> split), and count it as a change."""
    if not splits:
        return
    query = (
        update(_table)
        .where(_table.c.dataset == dataset, _table.c.id == bindparam("key"))
        .values(split=bindparam("to"), rev=_table.c.rev + 1)
    )
    tx.execute(query, [{"key": item, "to": split} for item, split in splits.items()])


def set_states(tx: Connection, dataset: str, states: Mapping[str, str]) -> None:
    """Mark items labeled or unlabeled, and count it as a change."""
    if not states:
        return
    query = (
        update(_table)
        .where(_table.c.dataset == dataset, _table.c.id == bindparam("key"))
        .values(state=bindparam("to"), rev=_table.c.rev + 1)
    )
    tx.execute(query, [{"key": item, "to": state} for item, state in states.items()])


def labeled_between(tx: Connection, dataset: str, low: str, high: str) -> Iterator[Item]:
    """Labelled items with ``low`` <= id < ``high``, by id, with their labels in canonical order."""
    said = tables.annotation
    inside = (_table.c.dataset == dataset, _table.c.state == "labeled", _table.c.id >= low, _table.c.id < high)
    rows = tx.execute(select(_table).where(*inside).order_by(_table.c.id)).all()
    shapes: dict[str, list[Shape]] = {}
    query = select(said.c.item, said.c.label, said.c.source, said.c.author).where(
        said.c.dataset == dataset, said.c.item >= low, said.c.item < high, _live
    )
    for item, label, source, author in tx.execute(query):
        shapes.setdefault(item, []).append(Shape(label=label, source=source, author=author))
    for row in rows:
        yield Item(**row._mapping, labels=tuple(sorted(shapes.get(row.id, ()))))


def _with_labels(tx: Connection, dataset: str, rows: Sequence[Any]) -> list[Item]:
    found = [Item(**row._mapping) for row in rows]
    said = tables.annotation
    shapes: dict[str, list[Shape]] = {}
    for batch in batches(item.id for item in found if item.state == "labeled"):
        query = select(said.c.item, said.c.label, said.c.source, said.c.author).where(
            said.c.dataset == dataset, said.c.item.in_(batch), _live
        )
        for item, label, source, author in tx.execute(query):
            shapes.setdefault(item, []).append(Shape(label=label, source=source, author=author))
    return [replace(item, labels=tuple(sorted(shapes[item.id]))) if item.id in shapes else item for item in found]


def _begins(prefix: str) -> tuple[Any, ...]:
    """Ids that begin with ``prefix``, as a range, because an index serves ranges on both databases."""
    return (_table.c.id >= prefix, _table.c.id <= prefix + "g")
