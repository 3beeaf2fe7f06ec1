"""The labelled items as plain rows, read straight from the catalog: what freezing takes its digests of."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from loopworks.store.frozen import Line
from loopworks.store.ids import batches

_ITEM = "i.id, i.name, i.blob, i.uri, i.mime, i.width, i.height, i.size_bytes, i.split, i.text, i.attributes, i.extra"
_SAID = "a.item, a.label, a.source, a.author, a.kind, a.points, a.mask, a.attributes, a.extra"
SPANS = 400  # id ranges in one query


def changed(tx: Connection, dataset: str, clock: int, digits: int) -> list[str]:
    """Beginnings (so many digits) of the ids of all items that changed since the dataset's clock stood at ``clock``."""
    sql = "SELECT DISTINCT substr(id, 1, :digits) FROM item WHERE dataset = :dataset AND changed > :clock"
    found = tx.execute(text(sql), {"digits": digits, "dataset": dataset, "clock": clock}).scalars()
    return sorted(found)


def lines(tx: Connection, dataset: str, spans: Iterable[tuple[str, str]]) -> Iterator[Line]:
    """Labelled items with ``low`` <= id < ``high`` of any of the spans (which are in order), by id."""
    for batch in batches(spans, SPANS):
        yield from _lines(tx, dataset, batch)


def _lines(tx: Connection, dataset: str, spans: Sequence[tuple[str, str]]) -> Iterator[Line]:
    # CROSS JOIN keeps SQLite from turning the loops round: a few ranges in the index, not the whole table.
    names: dict[str, Any] = {"dataset": dataset}
    for at, (low, high) in enumerate(spans):
        names |= {f"l{at}": low, f"h{at}": high}
    head = "WITH span(low, high) AS (VALUES " + ", ".join(f"(:l{at}, :h{at})" for at in range(len(spans))) + ") "

    def ask(columns: str, table: str, key: str, rest: str) -> Any:
        short = table[0] if table != "item_tag" else "t"
        where = f"{short}.dataset = :dataset AND {short}.{key} >= span.low AND {short}.{key} < span.high"
        sql = f"{head}SELECT {columns} FROM span CROSS JOIN {table} {short} WHERE {where} {rest}"  # noqa: S608
        return tx.execute(text(sql), names).all()

    said: dict[str, list[Any]] = {}
    for row in ask(_SAID, "annotation", "item", "AND a.deleted_at IS NULL ORDER BY a.item, a.place, a.label, a.points"):
        said.setdefault(row[0], []).append(list(row[1:]))
    tags: dict[str, list[str]] = {}
    for item, tag in ask("t.item, t.tag", "item_tag", "item", "ORDER BY t.item, t.tag"):
        tags.setdefault(item, []).append(tag)
    for row in ask(_ITEM, "item", "id", "AND i.state = 'labeled' AND i.deleted_at IS NULL ORDER BY i.id"):
        yield [*row[:10], tags.get(row[0], []), row[10], row[11], said.get(row[0], [])]
