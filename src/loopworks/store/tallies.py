"""Counters of a dataset, kept up to date with every change, so that nobody counts a million rows to show a page."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import delete, func, select, text
from sqlalchemy.engine import Connection

from loopworks.store import tables
from loopworks.store.ids import batches

_item, _said, _table = tables.item, tables.annotation, tables.tally


@contextlib.contextmanager
def kept(tx: Connection, dataset: str, ids: Iterable[str]) -> Iterator[None]:
    """Around a change of the given items (added, labelled, split, deleted): counts what it changed.

    Not to be nested: the inner change would count twice.
    """
    changed = list(dict.fromkeys(ids))
    before = _count(tx, dataset, changed)
    yield
    after = _count(tx, dataset, changed)
    after.subtract(before)
    _add(tx, dataset, after)


def read(tx: Connection, dataset: str) -> dict[str, Any]:
    """``items``, ``labeled``, ``unlabeled``, ``by_split`` (of all items, empty text: no split), ``by_class``."""
    by_state = {"labeled": 0, "unlabeled": 0}
    by_split: dict[str, int] = {}
    by_class: dict[str, int] = {}
    query = select(_table.c.what, _table.c.key, _table.c.count).where(_table.c.dataset == dataset, _table.c.count != 0)
    for what, key, count in tx.execute(query.order_by(_table.c.key)):
        if what == "class":
            by_class[key] = count
        elif what == "item":
            state, _, split = key.partition("/")
            by_state[state] += count
            by_split[split] = by_split.get(split, 0) + count
    return {
        "items": sum(by_state.values()),
        **by_state,
        "by_split": dict(sorted(by_split.items())),
        "by_class": by_class,
    }


def frozen(tx: Connection, dataset: str, classes: Iterable[str]) -> dict[str, Any]:
    """What a version frozen now holds: ``items``, ``by_split``, ``by_class``, ``by_split_class``, ``by_reference``."""
    by_split: dict[str, int] = {}
    placed: Counter[tuple[str, str]] = Counter()
    by_reference = 0
    query = select(_table.c.what, _table.c.key, _table.c.count).where(_table.c.dataset == dataset, _table.c.count != 0)
    for what, key, count in tx.execute(query):
        first, _, rest = key.partition("/")
        if what == "item" and first == "labeled":
            by_split[rest] = count
        elif what == "placed":
            placed[first, rest] = count
        elif what == "reference":
            by_reference = count
    names = list(classes)
    return {
        "items": sum(by_split.values()),
        "by_split": by_split,
        "by_class": {name: sum(placed[split, name] for split in by_split) for name in names},
        "by_split_class": {split: {name: placed[split, name] for name in names} for split in by_split},
        "by_reference": by_reference,
    }


def recount(tx: Connection, dataset: str) -> None:
    """Count everything anew; for repairs."""
    tx.execute(delete(_table).where(_table.c.dataset == dataset))
    _add(tx, dataset, _tally(tx, dataset))


def _count(tx: Connection, dataset: str, ids: list[str]) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for batch in batches(ids):
        found += _tally(tx, dataset, batch)
    return found


def _tally(tx: Connection, dataset: str, batch: list[str] | None = None) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    is_away = _item.c.uri != ""
    live = (_item.c.dataset == dataset, _item.c.deleted_at.is_(None))
    if batch is None:
        asked = select(_item.c.state, _item.c.split, is_away, func.count()).where(*live)
        items: Iterable[Any] = tx.execute(asked.group_by(_item.c.state, _item.c.split, is_away))
    else:  # counted here: SQLite would walk through an index of the whole dataset to have the groups in order
        some = select(_item.c.state, _item.c.split, is_away).where(*live, _item.c.id.in_(batch))
        items = ((*key, count) for key, count in Counter(map(tuple, tx.execute(some))).items())
    for state, split, has_uri, count in items:
        found["item", f"{state}/{split}"] += count
        if has_uri and state == "labeled":
            found["reference", ""] += count
    classes = (
        select(_item.c.split, _said.c.label, func.count(_said.c.item.distinct()))
        .join(_item, (_item.c.dataset == _said.c.dataset) & (_item.c.id == _said.c.item))
        .where(_said.c.dataset == dataset, _said.c.deleted_at.is_(None), _item.c.deleted_at.is_(None))
    )
    if batch is not None:
        classes = classes.where(_said.c.item.in_(batch))
    for split, label, count in tx.execute(classes.group_by(_item.c.split, _said.c.label)):
        found["class", label] += count  # an item is in one split, so the sums are of items too
        found["placed", f"{split}/{label}"] += count
    return found


def _add(tx: Connection, dataset: str, counts: "Counter[tuple[str, str]]") -> None:
    rows = [{"dataset": dataset, "what": what, "key": key, "n": n} for (what, key), n in sorted(counts.items()) if n]
    if rows:
        # Both databases speak this form; SQLAlchemy has it for each of them alone.
        sql = (
            "INSERT INTO tally (dataset, what, key, count) VALUES (:dataset, :what, :key, :n) "
            "ON CONFLICT (dataset, what, key) DO UPDATE SET count = tally.count + excluded.count"
        )
        tx.execute(text(sql), rows)
