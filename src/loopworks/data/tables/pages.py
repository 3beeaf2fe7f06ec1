"""Rows a page at a time: filtered, sorted, counted, without more in memory than the page and one segment."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from loopworks.core.errors import Invalid, NotFound
from loopworks.data.tables import keys, schema, segments
from loopworks.store import datasets

if TYPE_CHECKING:
    import pyarrow as pa

    from loopworks.data.tables.table import Live, Schema, Table

Where = Callable[["pa.Table"], Any]
SPLITS = ("train", "val", "test")
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
        where: takes typed rows (with ``_split``) and gives an Arrow mask or expression result: true for those to show.
        sort: column; empty: the order of import. Missing values come last.
        descending: the other way round.
        split: only rows of train, val or test; empty text: those without a split.
        limit: rows of the page, 1 to 10,000.
        offset: rows before it.
        columns: those to show; all by default.
    Raises:
        Invalid: limit or offset out of range.
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
    wanted = live.names if where is not None else [sort] if sort else []
    order = [(f"={sort}", "descending" if descending else "ascending")] if sort else []
    order.append(("_order", "ascending" if sort or not descending else "descending"))
    best: Any = None
    count = 0
    for part in table.scan(live, wanted):
        rows = _filtered(part, told, wanted, where, split)
        rows = rows.select([*segments.OWN, *([f"={sort}"] if sort else [])])
        count += rows.num_rows
        kept = rows if best is None else pa.concat_tables([best, rows])
        best = kept.take(pc.sort_indices(kept, sort_keys=order)[: offset + limit]).combine_chunks()
    if best is None:
        return Page(rows=(), count=0)
    found = _fetch(
        table, live, told, best.slice(offset), list(dict.fromkeys([*shown, *([told.id] if told.id else [])]))
    )
    return Page(rows=tuple(_shown(row, told, shown) for row in found), count=count)


def _fetch(table: "Table", live: "Live", told: "Schema", best: "pa.Table", columns: list[str]) -> list[dict[str, Any]]:
    """The whole rows of a page, from the segments that have them."""
    import pyarrow.compute as pc

    if not best.num_rows:
        return []
    key = best.column("_key").combine_chunks()
    places = set(keys.partitions(keys.as_keys(key), live.state.digits).tolist())
    touched = replace(live, segments=[segment for segment in live.segments if segment.number in places])
    rows: dict[bytes, dict[str, Any]] = {}
    for part in table.scan(touched, columns):
        here = part.filter(pc.is_in(part.column("_key"), value_set=key))
        rows |= {row["_key"]: row for row in typed_part(here, told, columns, "=").to_pylist()}
    return [rows[one] for one in key.to_pylist()]


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
    done = {name: part.column(name) for name in segments.OWN}
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


def _filtered(
    part: "pa.Table", told: "Schema", columns: Sequence[str], where: Where | None, split: str | None
) -> "pa.Table":
    import pyarrow.compute as pc

    if split is not None:
        part = part.filter(pc.equal(part.column("_split"), split))
    rows = typed_part(part, told, columns, "=")
    if where is None:
        return rows
    bare = rows.rename_columns([name.removeprefix("=") for name in rows.column_names])
    return rows.filter(where(bare))
