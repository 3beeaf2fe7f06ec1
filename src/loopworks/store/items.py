"""Rows of items: what there is to learn from."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import and_, bindparam, insert, or_, select, update
from sqlalchemy import delete as sql_delete
from sqlalchemy.engine import Connection

from loopworks.core.errors import Invalid, NotFound
from loopworks.core.values import Shape
from loopworks.store import events, shapes, tables, tallies
from loopworks.store.ids import batches, now

_table = tables.item
_live = tables.annotation.c.deleted_at.is_(None)
_here = _table.c.deleted_at.is_(None)
_COLUMNS = tuple(column for column in _table.c if column.name != "deleted_at")
State = Literal["all", "labeled", "unlabeled"]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item and its label as it is now."""

    dataset: str
    id: str
    """SHA-256 of the bytes, in hex; further items of equal bytes have ``-2``, ``-3`` ... after it."""
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
    text: str = ""
    """The item itself, where items are texts."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """What is known of it: camera, time, captions ..."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Format name -> what only that format knows of it."""
    changed: int = 0
    """The dataset's clock at its last change."""
    tags: tuple[str, ...] = ()
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
            "text": self.text,
            "attributes": dict(self.attributes),
            "tags": list(self.tags),
            "labels": [shape.to_json() for shape in self.labels],
        }


def add(tx: Connection, dataset: str, rows: Sequence[Mapping[str, Any]], *, author: str = "", op: str = "") -> None:
    """Insert items that are not there yet (see ``among`` and ``bring_back``), all of one dataset.

    With ``op``, the operation that it is part of, an event for each is written, so that it can be undone.
    """
    if rows:
        clock = tick(tx, dataset)
        plain = {"text": "", "attributes": {}, "extra": {}}
        with tallies.kept(tx, dataset, [row["id"] for row in rows]):
            tx.execute(insert(_table), [{**plain, **row, "changed": clock} for row in rows])
        if op:
            _log_presence(tx, dataset, "item.add", (row["id"] for row in rows), author, op)


def tick(tx: Connection, dataset: str) -> int:
    """Advance the dataset's clock; rows that change in this transaction carry the number."""
    clock = tables.dataset.c.clock
    query = update(tables.dataset).where(tables.dataset.c.id == dataset).values(clock=clock + 1).returning(clock)
    return int(tx.execute(query).scalar_one())


def among(tx: Connection, dataset: str, ids: Iterable[str], *, deleted: bool = False) -> dict[str, Item]:
    """Those of ``ids`` that exist, with their labels; with ``deleted`` also those that were deleted."""
    found: dict[str, Item] = {}
    for batch in batches(ids):
        query = select(*_COLUMNS).where(_table.c.dataset == dataset, _table.c.id.in_(batch))
        query = query if deleted else query.where(_here)
        found |= {item.id: item for item in _with_labels(tx, dataset, tx.execute(query).all())}
    return found


def deleted(tx: Connection, dataset: str, ids: Iterable[str]) -> set[str]:
    """Those of ``ids`` that were deleted and can be brought back."""
    found: set[str] = set()
    for batch in batches(ids):
        query = select(_table.c.id).where(_table.c.dataset == dataset, _table.c.id.in_(batch), ~_here)
        found.update(tx.execute(query).scalars())
    return found


def every(tx: Connection, dataset: str) -> list[str]:
    """Ids of all items, also of deleted ones, in order."""
    return list(tx.execute(select(_table.c.id).where(_table.c.dataset == dataset).order_by(_table.c.id)).scalars())


def rows_of(tx: Connection, dataset: str, ids: Iterable[str]) -> list[dict[str, Any]]:
    """Items as ``add`` takes them, for another dataset to add; without their state, which labels bring."""
    names = ("id", "name", "blob", "uri", "stamp", "mime", "width", "height", "size_bytes", "added_at", "text", "extra")
    found: list[dict[str, Any]] = []
    for batch in batches(ids):
        query = select(*(_table.c[name] for name in names)).where(_table.c.dataset == dataset, _table.c.id.in_(batch))
        found += [dict(row._mapping) for row in tx.execute(query)]
    return found


def delete(tx: Connection, dataset: str, ids: Iterable[str], *, author: str, op: str) -> None:
    """Take items out of sight, with all that is said of them; nothing is lost, ``bring_back`` undoes it.

    Items that are deleted already must not be among them.
    """
    gone = dict.fromkeys(ids, now())
    with tallies.kept(tx, dataset, gone):
        change(tx, dataset, "deleted_at", gone)
    _log_presence(tx, dataset, "item.delete", gone, author, op)


def bring_back(tx: Connection, dataset: str, ids: Iterable[str], *, author: str, op: str) -> set[str]:
    """Let deleted items among ``ids`` be there again, with the labels, split and tags that they had; gives them."""
    back = deleted(tx, dataset, ids)
    with tallies.kept(tx, dataset, sorted(back)):
        change(tx, dataset, "deleted_at", dict.fromkeys(sorted(back)))
    _log_presence(tx, dataset, "item.return", sorted(back), author, op)
    return back


def set_tags(tx: Connection, dataset: str, tags: Mapping[str, Sequence[str]], before: Mapping[str, Item]) -> None:
    """Replace the tags of items (by id), and count it as a change; ``before``: those items as they are now."""
    table = tables.item_tag
    gone = [(item, tag) for item in tags for tag in before[item].tags if tag not in tags[item]]
    fresh = [(item, tag) for item in tags for tag in dict.fromkeys(tags[item]) if tag not in before[item].tags]
    if gone:
        query = sql_delete(table).where(
            table.c.dataset == dataset, table.c.item == bindparam("key"), table.c.tag == bindparam("name")
        )
        tx.execute(query, [{"key": item, "name": tag} for item, tag in gone])
    if fresh:
        tx.execute(insert(table), [{"dataset": dataset, "item": item, "tag": tag} for item, tag in fresh])
    touch(tx, dataset, {item for item, _ in (*gone, *fresh)})


def touch(tx: Connection, dataset: str, ids: Iterable[str]) -> None:
    """Count a change of items whose own row stays as it is (their tags changed)."""
    wanted = sorted(ids)
    if wanted:
        query = update(_table).where(_table.c.dataset == dataset, _table.c.id == bindparam("key"))
        changed = {"rev": _table.c.rev + 1, "changed": tick(tx, dataset)}
        tx.execute(query.values(changed), [{"key": item} for item in wanted])


def get(tx: Connection, dataset: str, item: str) -> Item:
    """An item by its id, the beginning of it, or its name (path as imported).

    Raises:
        NotFound: no such item.
        Invalid: several items begin like that, or have that name.
    """
    query = select(*_COLUMNS).where(_table.c.dataset == dataset, _here)
    rows = list(tx.execute(query.where(_table.c.name == item).limit(2)))
    if not rows and item and set(item) <= set("0123456789abcdef-"):
        rows = list(tx.execute(query.where(_table.c.id == item)))  # of equal bytes, one id begins the others
        rows = rows or list(tx.execute(query.where(*_begins(item)).limit(2)))
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
    query = select(*_COLUMNS).where(_table.c.dataset == dataset, _here)
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


def labeled_splits(tx: Connection, dataset: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Of all labelled items: id -> classes, and id -> split (empty text: none yet)."""
    query = select(_table.c.id, _table.c.split).where(_table.c.dataset == dataset, _table.c.state == "labeled", _here)
    splits = {row[0]: row[1] for row in tx.execute(query)}
    labels: dict[str, list[str]] = {item: [] for item in splits}
    said = tables.annotation
    for item, label in tx.execute(select(said.c.item, said.c.label).where(said.c.dataset == dataset, _live)):
        if item in labels:  # not so where the item is deleted
            labels[item].append(label)
    return labels, splits


def labeled_facts(tx: Connection, dataset: str) -> Iterator[tuple[str, str, dict[str, Any], datetime]]:
    """Of all labelled items: id, name, attributes and when they were added."""
    columns = (_table.c.id, _table.c.name, _table.c.attributes, _table.c.added_at)
    query = select(*columns).where(_table.c.dataset == dataset, _table.c.state == "labeled", _here)
    for row in tx.execute(query):
        yield row[0], row[1], row[2], row[3]


def set_splits(tx: Connection, dataset: str, splits: Mapping[str, str]) -> None:
    """Put items into splits (item id -> split), and count it as a change."""
    with tallies.kept(tx, dataset, splits):
        change(tx, dataset, "split", splits)


def change(tx: Connection, dataset: str, column: str, values: Mapping[str, Any]) -> None:
    """Give items (by id) a new value in one column; whoever calls this around it keeps the counters."""
    if not values:
        return
    query = (
        update(_table)
        .where(_table.c.dataset == dataset, _table.c.id == bindparam("key"))
        .values({
            column: bindparam("to", type_=_table.c[column].type),
            "rev": _table.c.rev + 1,
            "changed": bindparam("clock"),
        })
    )
    clock = tick(tx, dataset)
    tx.execute(query, [{"key": item, "to": value, "clock": clock} for item, value in values.items()])


def add_tags(tx: Connection, dataset: str, tags: Mapping[str, Iterable[str]]) -> None:
    """Give items (by id) tags; those that an item has already stay as they are."""
    table = tables.item_tag
    have: set[tuple[str, str]] = set()
    for batch in batches(tags):
        query = select(table.c.item, table.c.tag).where(table.c.dataset == dataset, table.c.item.in_(batch))
        have |= {(row[0], row[1]) for row in tx.execute(query)}
    wanted = {(item, tag) for item, names in tags.items() for tag in names} - have
    if not wanted:
        return
    tx.execute(insert(table), [{"dataset": dataset, "item": item, "tag": tag} for item, tag in sorted(wanted)])
    clock = tick(tx, dataset)
    touched = update(_table).where(_table.c.dataset == dataset, _table.c.id == bindparam("key"))
    tx.execute(touched.values(changed=clock), [{"key": item} for item in sorted({item for item, _ in wanted})])


def labeled_between(tx: Connection, dataset: str, low: str, high: str) -> Iterator[Item]:
    """Labelled items with ``low`` <= id < ``high``, by id, with their shapes and tags in order."""
    inside = (_table.c.dataset == dataset, _table.c.state == "labeled", _table.c.id >= low, _table.c.id < high, _here)
    rows = tx.execute(select(*_COLUMNS).where(*inside).order_by(_table.c.id)).all()
    said = tables.annotation.c.item
    found = shapes.live(tx, dataset, said >= low, said < high)
    tagged = tables.item_tag.c.item
    tags = _tags(tx, dataset, tagged >= low, tagged < high)
    for row in rows:
        yield Item(**row._mapping, labels=tuple(found.get(row.id, ())), tags=tags.get(row.id, ()))


def _log_presence(tx: Connection, dataset: str, kind: str, ids: Iterable[str], author: str, op: str) -> None:
    is_here = kind != "item.delete"
    make = functools.partial(events.make, kind, dataset=dataset, author=author, op=op, at=now())
    events.add(tx, [make(item=item, before=not is_here, after=is_here) for item in ids])


def _with_labels(tx: Connection, dataset: str, rows: Sequence[Any]) -> list[Item]:
    said: dict[str, list[Shape]] = {}
    tags: dict[str, tuple[str, ...]] = {}
    for batch in batches(row.id for row in rows):
        said |= shapes.live(tx, dataset, tables.annotation.c.item.in_(batch))
        tags |= _tags(tx, dataset, tables.item_tag.c.item.in_(batch))
    return [Item(**row._mapping, labels=tuple(said.get(row.id, ())), tags=tags.get(row.id, ())) for row in rows]


def _tags(tx: Connection, dataset: str, *where: Any) -> dict[str, tuple[str, ...]]:
    table = tables.item_tag
    query = select(table.c.item, table.c.tag).where(table.c.dataset == dataset, *where)
    found: dict[str, tuple[str, ...]] = {}
    for item, tag in tx.execute(query.order_by(table.c.item, table.c.tag)):
        found[item] = (*found.get(item, ()), tag)
    return found


def _begins(prefix: str) -> tuple[Any, ...]:
    """Ids that begin with ``prefix``, as a range, because an index serves ranges on both databases."""
    return (_table.c.id >= prefix, _table.c.id <= prefix + "g")
