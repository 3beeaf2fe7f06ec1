"""Rows a page at a time: filtered, sorted, counted, without more in memory than the page and one segment."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from loopworks.core.errors import Invalid, NotFound
from loopworks.core.query import ALWAYS, NEVER
from loopworks.data.tables import filters, schema, segments
from loopworks.data.tables.census import Census
from loopworks.store import datasets
from loopworks.store.ids import batches
from loopworks.store.segments import Segment

if TYPE_CHECKING:
    import pyarrow as pa

    from loopworks.data.tables.table import Live, Schema, Table

Where = Callable[["pa.Table"], Any]
SPLITS = ("train", "val", "test")
THREADS = min(4, os.cpu_count() or 1)
"""Segments that are read at once."""
MOST = 100_000
"""Rows that a page and what lies before it may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some rows, and how many there are in all."""

    rows: tuple[dict[str, Any], ...]
    """``id``, ``split`` and ``cells``: column -> value (number, text, ISO date, true or false, or null)."""
    count: int
    """Rows that fit the filter."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"count": self.count, "rows": list(self.rows)}


def page(
    table: "Table",
    *,
    query: str,
    where: Where | None,
    sort: str,
    descending: bool,
    split: str | None,
    limit: int,
    offset: int,
    columns: Sequence[str] | None,
) -> Page:
    """Rows, a page at a time.

    Args:
        table: the table.
        query: a condition on columns (docs/query.md), such as ``age > 30 and target = 'yes'``; empty: all rows.
        where: a further one in Python: takes typed rows (with ``_split``) and gives an Arrow mask or expression
            result: true for those to show.
        sort: column; empty: the order of import. Missing values come last.
        descending: the other way round.
        split: only rows of train, val or test; empty text: those without a split.
        limit: rows of the page, 1 to 10,000.
        offset: rows before it.
        columns: those to show; all by default.
    Raises:
        Invalid: limit or offset out of range; the query cannot be read, or names a column that is not there.
        NotFound: no such column or split.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not 1 <= limit <= 10_000:
        raise Invalid("limit", "in 1..10000", limit)
    if not 0 <= offset <= MOST:
        raise Invalid("offset", f"in 0..{MOST}", offset, "use a filter to come further")
    if split and split not in SPLITS:
        raise NotFound("split", split, SPLITS)
    from loopworks.data.tables.table import schema_of

    live = table.live()
    told = schema_of(live.state)
    shown = [told.column(name).name for name in (live.names if columns is None else columns)]
    if sort:
        told.column(sort)
    node = filters.simpler(filters.read(query, told), _known(live)) if query else ALWAYS
    if node == NEVER:
        return Page(rows=(), count=0)
    looked = live.names if where is not None else filters.names(node)
    wanted = list(dict.fromkeys([*looked, *([sort] if sort else [])]))
    best = _Best(sort, descending, offset + limit)
    count = 0

    def part_of(segment: Segment) -> "pa.Table":
        part = segments.load(table.home.blobs, segment, wanted, own=("_order", "_split"))
        part = part.append_column("_row", pa.array(np.arange(part.num_rows)))
        if split is not None:
            part = part.filter(pc.equal(part.column("_split"), split))
        rows = typed_part(part, told, wanted, "=")
        if node != ALWAYS:
            rows = rows.filter(filters.mask(node, rows))
        if where is not None:
            bare = rows.select([name for name in rows.column_names if name != "_row"])
            rows = rows.filter(where(bare.rename_columns([name.removeprefix("=") for name in bare.column_names])))
        return rows.select(["_order", "_row", *([f"={sort}"] if sort else [])])

    for segment, rows in _each(live.segments, part_of):
        count += rows.num_rows
        best.take(rows.append_column("_segment", pa.array([segment.number], pa.int64()).take(_zeros(rows.num_rows))))
    found = _fetch(table, live, told, best, offset, list(dict.fromkeys([*shown, *([told.id] if told.id else [])])))
    return Page(rows=tuple(_shown(row, told, shown) for row in found), count=count)


class _Best:
    """The first rows in order of all that were taken, at most ``most``."""

    def __init__(self, sort: str, is_down: bool, most: int) -> None:
        way = "descending" if is_down else "ascending"
        self._by = f"={sort}" if sort else "_order"
        self._is_down = is_down
        self._most = most
        self._order = [(self._by, way), ("_order", "ascending")] if sort else [("_order", way)]
        self.rows: Any = None

    def take(self, rows: "pa.Table") -> None:
        """Let some rows compete; those that come after the last one so far are not even sorted."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.rows is not None and self.rows.num_rows == self._most:
            last = self.rows.column(self._by)[-1]
            if last.is_valid:
                ahead = (pc.greater_equal if self._is_down else pc.less_equal)(rows.column(self._by), last)
                rows = rows.filter(ahead)
        if self.rows is not None:
            rows = pa.concat_tables([self.rows, rows])
        self.rows = rows.take(pc.sort_indices(rows, sort_keys=self._order)[: self._most]).combine_chunks()


def _each(found: Sequence[Segment], work: "Callable[[Segment], pa.Table]") -> "Iterator[tuple[Segment, pa.Table]]":
    """What the work makes of each segment, in order; a few at once, so that a few are in memory."""
    with ThreadPoolExecutor(THREADS) as pool:
        for some in batches(found, 2 * THREADS):
            yield from zip(some, pool.map(work, some), strict=True)


def _fetch(
    table: "Table", live: "Live", told: "Schema", best: _Best, offset: int, columns: list[str]
) -> list[dict[str, Any]]:
    """The whole rows of a page, from the segments that have them."""
    import pyarrow as pa

    if best.rows is None:
        return []
    page = best.rows.slice(offset)
    places: dict[int, list[int]] = {}
    pairs = list(zip(page.column("_segment").to_pylist(), page.column("_row").to_pylist(), strict=True))
    for number, row in pairs:
        places.setdefault(number, []).append(row)
    touched = [segment for segment in live.segments if segment.number in places]

    def part_of(segment: Segment) -> "pa.Table":
        part = segments.load(table.home.blobs, segment, columns)
        here = part.take(pa.array(places[segment.number], pa.int64()))
        return typed_part(here, told, columns, "=")

    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for segment, part in _each(touched, part_of):
        rows |= {(segment.number, row): one for row, one in zip(places[segment.number], part.to_pylist(), strict=True)}
    return [rows[pair] for pair in pairs]


def _known(live: "Live") -> dict[str, Census]:
    return {name: Census.from_json(told) for name, told in live.state.body.get("census", {}).items()}


def _zeros(count: int) -> "pa.Array":
    import pyarrow as pa

    return pa.array(np.zeros(count, np.int64))


def _shown(row: dict[str, Any], told: "Schema", columns: Sequence[str]) -> dict[str, Any]:
    shown = str(row[f"={told.id}"]) if told.id else row["_key"].hex()
    return {"id": shown, "split": row["_split"], "cells": {name: plain(row[f"={name}"]) for name in columns}}


def counts(table: "Table") -> dict[str, Any]:
    """Rows in all, with a target, by split, by class (for classification)."""
    import pyarrow.compute as pc

    from loopworks.data.tables.table import schema_of

    live = table.live()
    told = schema_of(live.state)
    by_class: dict[str, int] = {}
    labeled = 0
    if told.target:
        column = told.column(told.target)
        census = live.state.body["census"][told.target]
        labeled = live.state.rows - sum(column.missing.values())
        if table.task == "tabular-classification":
            with table.home.catalog.read() as tx:
                by_class = dict.fromkeys(datasets.by_id(tx, table.dataset).schema.classes, 0)
            tokens = set(column.tokens)
            if census["values"] is not None:
                found = {v: n for v, n in census["values"].items() if v.lower() not in tokens}
                by_class |= found
            else:
                words = replace(column, type="category")
                for part in table.scan(live, [told.target]):
                    values = schema.typed(segments.cells(part).column(told.target).combine_chunks(), words)
                    for pair in pc.value_counts(values.drop_null()).to_pylist():
                        by_class[pair["values"]] = by_class.get(pair["values"], 0) + pair["counts"]
    return {
        "items": live.state.rows,
        "labeled": labeled,
        "unlabeled": live.state.rows - labeled,
        "by_split": dict(live.state.body.get("splits", {})),
        "by_class": by_class,
    }


def typed_rows(table: "Table", live: "Live", told: "Schema", columns: Sequence[str]) -> "Iterator[pa.Table]":
    """The rows with their cells as typed columns, a segment at a time; ours keep their names."""
    for part in table.scan(live, columns):
        yield typed_part(part, told, columns, "")


def typed_part(part: "pa.Table", told: "Schema", columns: Sequence[str], mark: str) -> "pa.Table":
    """One segment's rows, typed; ``mark`` goes before the names of the user's columns."""
    import pyarrow as pa

    user = segments.cells(part)
    done = {name: part.column(name) for name in part.column_names if not name.startswith(":")}
    for name in columns:
        done[mark + name] = schema.typed(user.column(name).combine_chunks(), told.column(name))
    return pa.table(done)


def plain(value: Any) -> Any:
    """A cell as JSON has it."""
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    return value
