"""Full-text search: the words of items, kept in step by the dataset's clock. FTS5 on SQLite, a GIN index elsewhere."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Connection

from loopworks.core.words import texts, wanted, words
from loopworks.store import tables
from loopworks.store.catalog import Catalog
from loopworks.store.ids import batches

BATCH = 2000
"""Items that one transaction files."""
_item, _said, _tag, _table, _dataset = (
    tables.item, tables.annotation, tables.item_tag, tables.searched, tables.dataset,
)  # fmt: skip
_index = sa.table("search_index", sa.column("rowid", sa.BigInteger), sa.column("words", sa.String), sa.column("rank"))


def having(dialect: str, dataset: str, text: str) -> Any:
    """A query for the ids of items that have all words of ``text``; the words must be in step (``catch_up``)."""
    # Left alone, SQLite asks the index of words once for each item.
    query = sa.select(_table.c.item).where(tables.unindexed(dialect, _table.c.dataset) == dataset)
    if dialect == "postgresql":
        return query.where(_array().contains(sa.cast(wanted(text), ARRAY(sa.Text))))
    return query.join(_index, _index.c.rowid == _table.c.seq).where(_matches(text))


def has(dialect: str, dataset: str, text: str, item: Any) -> sa.ColumnElement[bool]:
    """That an item has all words of ``text``, read from its own words: for few items, whatever many others have."""
    mine = sa.and_(_table.c.dataset == dataset, _table.c.item == item)
    if dialect == "postgresql":
        found = [_array().contains(sa.cast(wanted(text), ARRAY(sa.Text)))]
    else:
        padded = sa.literal(" ") + _table.c.words + sa.literal(" ")
        found = [sa.func.instr(padded, f" {word} ") > 0 for word in wanted(text)]
    return sa.select(sa.literal_column("1")).select_from(_table).where(mine, *found).correlate_except(_table).exists()


def is_filed(tx: Connection, dataset: str) -> bool:
    """Whether the words of all items are filed as they are now."""
    clock, done = _clocks(tx, dataset)
    return done >= clock


def rank(dialect: str, query: Any, item: Any, dataset: str, text: str) -> Any:
    """A query over items that have all words of ``text`` (see ``having``), the best first.

    Fewer words in an item and rarer words weigh more: bm25 on SQLite; on PostgreSQL fewer words alone.
    """
    here = sa.and_(tables.unindexed(dialect, _table.c.dataset) == dataset, _table.c.item == item)
    query = query.join(_table, here)
    if dialect == "postgresql":
        return query.order_by(sa.func.cardinality(_array()), item)
    query = query.join(_index, _index.c.rowid == _table.c.seq).where(_matches(text))
    return query.order_by(sa.literal_column("search_index.rank"), item)


def catch_up(catalog: Catalog, dataset: str) -> int:
    """File the words of what changed since the last time, a batch a transaction; returns how many items."""
    with catalog.read() as tx:
        clock, done = _clocks(tx, dataset)
        if done == clock:
            return 0
        changed = (_item.c.dataset == dataset, _item.c.changed > done, _item.c.changed <= clock)
        ids = list(tx.execute(sa.select(_item.c.id).where(*changed).order_by(_item.c.id)).scalars())
    for batch in batches(ids, BATCH):
        with catalog.begin() as tx:
            file(tx, dataset, batch)
    with catalog.begin() as tx:
        mine = sa.and_(_dataset.c.id == dataset, _dataset.c.searched < clock)
        tx.execute(sa.update(_dataset).where(mine).values(searched=clock))
    return len(ids)


def forget(tx: Connection, dataset: str, ids: Iterable[str]) -> None:
    """Take the words of items out of the index."""
    for batch in batches(ids):
        _remove(tx, dataset, _filed(tx, dataset, batch))


def file(tx: Connection, dataset: str, ids: Sequence[str]) -> None:
    """File the words of the given items as they are now; those that are deleted lose theirs."""
    for batch in batches(ids):
        fresh = _words(tx, dataset, batch)
        old = _filed(tx, dataset, batch)
        stale = {item: row for item, row in old.items() if fresh.get(item) != row[1]}
        _remove(tx, dataset, stale)
        _insert(tx, dataset, {item: text for item, text in fresh.items() if item not in old or item in stale})


def _array() -> Any:
    return sa.func.string_to_array(_table.c.words, sa.literal_column("' '"), type_=ARRAY(sa.Text))


def _clocks(tx: Connection, dataset: str) -> tuple[int, int]:
    row = tx.execute(sa.select(_dataset.c.clock, _dataset.c.searched).where(_dataset.c.id == dataset)).one()
    return int(row[0]), int(row[1])


def _matches(text: str) -> sa.ColumnElement[bool]:
    phrase = " AND ".join(f'"{word}"' for word in wanted(text))
    return sa.literal_column("search_index").op("MATCH", is_comparison=True)(phrase)


def _words(tx: Connection, dataset: str, ids: Sequence[str]) -> dict[str, str]:
    tags: dict[str, list[str]] = {}
    mine = (_tag.c.dataset == dataset, _tag.c.item.in_(ids))
    for item, tag in tx.execute(sa.select(_tag.c.item, _tag.c.tag).where(*mine)):
        tags.setdefault(item, []).append(tag)
    said: dict[str, list[Any]] = {}
    live = (_said.c.dataset == dataset, _said.c.item.in_(ids), _said.c.deleted_at.is_(None), _said.c.kind == "caption")
    for item, facts in tx.execute(sa.select(_said.c.item, _said.c.attributes).where(*live)):
        said.setdefault(item, []).append(json.loads(facts))
    query = sa.select(_item.c.id, _item.c.name, _item.c.text, _item.c.attributes)
    rows = tx.execute(query.where(_item.c.dataset == dataset, _item.c.id.in_(ids), _item.c.deleted_at.is_(None)))
    return {
        key: " ".join(sorted(words("\n".join(texts(name, text, facts, tags.get(key, ()), said.get(key, ()))))))
        for key, name, text, facts in rows
    }


def _filed(tx: Connection, dataset: str, ids: Sequence[str]) -> dict[str, tuple[int, str]]:
    query = sa.select(_table.c.item, _table.c.seq, _table.c.words)
    rows = tx.execute(query.where(_table.c.dataset == dataset, _table.c.item.in_(ids)))
    return {item: (seq, text) for item, seq, text in rows}


def _remove(tx: Connection, dataset: str, rows: Mapping[str, tuple[int, str]]) -> None:
    if not rows:
        return
    if tx.dialect.name == "sqlite":  # the index holds no text of its own: it must be told what it forgets
        sql = sa.text("INSERT INTO search_index (search_index, rowid, words) VALUES ('delete', :seq, :words)")
        tx.execute(sql, [{"seq": seq, "words": text} for seq, text in rows.values()])
    tx.execute(sa.delete(_table).where(_table.c.dataset == dataset, _table.c.item.in_(list(rows))))


def _insert(tx: Connection, dataset: str, rows: Mapping[str, str]) -> None:
    if not rows:
        return
    first = int(tx.execute(sa.select(sa.func.coalesce(sa.func.max(_table.c.seq), 0))).scalar_one()) + 1
    made = [
        {"dataset": dataset, "item": item, "seq": first + i, "words": text}
        for i, (item, text) in enumerate(rows.items())
    ]
    tx.execute(sa.insert(_table), made)
    if tx.dialect.name == "sqlite":
        tx.execute(sa.text("INSERT INTO search_index (rowid, words) VALUES (:seq, :words)"), made)
