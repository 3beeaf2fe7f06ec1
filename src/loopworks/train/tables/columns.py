"""From the columns of a table to the rule of its rows: which are learnt from, and as what features."""

import json
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid
from loopworks.core.row import Column, Part, RowRule, terms_of
from loopworks.data.tables.rows import READING

if TYPE_CHECKING:
    import pyarrow as pa

MOST_VALUES = 1_000
"""Values of a category with a code of their own; the rarer ones share one code."""
SAMPLE = 50_000
"""Rows that terms are sought in."""
_CANDIDATES = 3_000
_NUMBERS = ("int", "float", "time")
_PARTS: tuple[Part, ...] = ("year", "month", "day", "weekday", "hour", "minute", "yearday", "days")
_USUAL = {"missing": ["", "na", "n/a", "nan", "null"], "decimal": ".", "thousands": "", "is_day_first": False}


def choose(
    table: "pa.Table", target: NDArray[Any], *, terms: int, left_out: Collection[str] = ()
) -> tuple[RowRule, tuple[str, ...]]:
    """The rule for rows like those of ``table``, and notes about columns that are not learnt from.

    Args:
        table: training rows; a field's metadata may say how its text is read.
        target: what terms of texts are chosen by: class ids, or numbers, shape ``(rows,)``.
        terms: of each text column.
        left_out: columns that are not to be learnt from.
    Raises: Invalid: no column is left to learn from, or ``left_out`` names none of the table.
    """
    if unknown := sorted(set(left_out) - set(table.column_names)):
        raise Invalid("leave_out", f"columns of the table ({', '.join(table.column_names[:12])})", unknown[0])
    columns: list[Column] = []
    gone: dict[str, list[str]] = {}
    for field in table.schema:
        reading = {**_USUAL, "type": _plain_type(field), **json.loads((field.metadata or {}).get(READING, b"{}"))}
        cells = table.column(field.name)
        if field.name in left_out:
            gone.setdefault("as asked", []).append(field.name)
        elif why := _useless(cells, reading["type"]):
            gone.setdefault(why, []).append(field.name)
        elif (column := _column(field.name, cells, reading, target, terms)) is None:
            gone.setdefault("no word of it occurs often enough", []).append(field.name)
        else:
            columns.append(column)
    notes = tuple(f"not learnt from ({why}): {_listed(names)}" for why, names in gone.items())
    if not columns:
        raise Invalid("columns to learn from", "at least one", "; ".join(notes) or "none")
    return RowRule(columns=tuple(columns)), notes


def _column(name: str, cells: "pa.ChunkedArray", reading: dict[str, Any], target: Any, terms: int) -> Column | None:
    kind = reading["type"]
    how: dict[str, Any] = {"name": name, "missing": tuple(reading["missing"])}
    if kind in _NUMBERS:
        marks = {"decimal": reading["decimal"], "thousands": reading["thousands"]}
        return Column(kind="time", **how) if kind == "time" else Column(kind="number", **how, **marks)
    if kind == "bool":
        return Column(kind="bool", **how)
    if kind in ("date", "datetime"):
        column = Column(kind="moment", **how, is_day_first=reading["is_day_first"], parts=_PARTS)
        return Column(kind="moment", **how, is_day_first=reading["is_day_first"], parts=_telling(column, cells))
    if kind == "text" and _is_prose(cells):
        found = _terms(cells, target, terms)
        return Column(kind="text", **how, terms=found) if found else None
    return Column(kind="category", **how, values=_values(cells))


def _plain_type(field: "pa.Field") -> str:
    """The type by Arrow alone, for tables that say nothing of how they are read."""
    import pyarrow.types as kinds

    tests = [
        (kinds.is_boolean, "bool"), (kinds.is_integer, "int"), (kinds.is_floating, "float"),
        (kinds.is_date, "date"), (kinds.is_timestamp, "datetime"), (kinds.is_dictionary, "category"),
        (kinds.is_string, "text"), (kinds.is_large_string, "text"), (kinds.is_null, "empty"),
    ]  # fmt: skip
    for test, name in tests:
        if test(field.type):
            return name
    raise Invalid(f"type of column {field.name!r}", "number, bool, date, time or text", str(field.type))


def _useless(cells: "pa.ChunkedArray", kind: str) -> str:
    """Why nothing can be learnt from a column; empty where something may."""
    import pyarrow.compute as pc

    if cells.null_count == len(cells):
        return "no value in the train split"
    if kind == "id":
        return "it says who a row is"
    if not cells.null_count and len(cells) > 1:
        first = cells[0]
        if pc.all(pc.equal(cells, first)).as_py():
            return "one value in all rows"
    return ""


def _values(cells: "pa.ChunkedArray") -> tuple[str, ...]:
    """The values, the commonest first; those that occur once are no values of their own where there are many."""
    import pyarrow.compute as pc

    pairs = [(pair["values"], pair["counts"]) for pair in pc.value_counts(cells.drop_null()).to_pylist()]
    pairs.sort(key=lambda pair: (-pair[1], pair[0]))
    if len(pairs) > MOST_VALUES:
        pairs = [pair for pair in pairs if pair[1] > 1][:MOST_VALUES]
    return tuple(value for value, _ in pairs)


def _telling(column: Column, cells: "pa.ChunkedArray") -> tuple[Part, ...]:
    """The parts of a moment that differ between rows; days alone where none does."""
    found = RowRule(columns=(column,))
    table = found.encode(found.pack(_table(column.name, cells)))["features"]
    varied = [
        part for part, values in zip(_PARTS, table.T, strict=True) if len(np.unique(values[~np.isnan(values)])) > 1
    ]
    return tuple(varied) or ("days",)


def _table(name: str, cells: "pa.ChunkedArray") -> Any:
    import pyarrow as pa

    return pa.table({name: cells})


def _is_prose(cells: "pa.ChunkedArray") -> bool:
    """Whether cells are sentences rather than names: mostly different, and of three words or more."""
    import pyarrow.compute as pc

    some = cells.drop_null().slice(0, 2_000)
    words = sum(len(terms_of(text)) // 2 + 1 for text in some.to_pylist()) / max(1, len(some))
    return bool(words >= 3 and pc.count_distinct(some).as_py() > len(some) / 4)


def _terms(cells: "pa.ChunkedArray", target: NDArray[Any], most: int) -> tuple[str, ...]:
    """The words and pairs of words that go with the target, by chi-squared over the rows that hold them.

    Source: Yang, Pedersen 1997, "A comparative study on feature selection in text categorization".
    """
    picks = np.random.default_rng(0).permutation(len(cells))[:SAMPLE]
    picks.sort()
    texts = cells.take(picks).to_pylist()
    groups = _groups(target[picks])
    held = [set(terms_of(text)) if text else set() for text in texts]
    many = Counter(term for found in held for term in found)
    least = max(3, len(held) // 2_000)
    listed = [term for term, count in many.most_common(_CANDIDATES) if least <= count < 0.95 * len(held)]
    if not listed:
        return ()
    place = {term: i for i, term in enumerate(listed)}
    seen = np.zeros((len(listed), int(groups.max()) + 1))
    for group, found in zip(groups.tolist(), held, strict=True):
        for term in found:
            if (at := place.get(term)) is not None:
                seen[at, group] += 1
    share = np.bincount(groups, minlength=seen.shape[1]) / len(groups)
    expected = seen.sum(axis=1, keepdims=True) * share
    score = ((seen - expected) ** 2 / np.maximum(expected, 1e-9)).sum(axis=1)
    best = np.argsort(-score, kind="stable")[:most]
    return tuple(listed[i] for i in best.tolist())


def _groups(target: NDArray[Any]) -> NDArray[np.int64]:
    """Classes as they are, numbers as quarters of their order."""
    if target.dtype.kind in "iu":
        return target.astype(np.int64)
    edges = np.quantile(target, (0.25, 0.5, 0.75))
    return np.searchsorted(edges, target).astype(np.int64)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
