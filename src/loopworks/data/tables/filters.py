"""Filters on the rows of a table, in the language of all queries (docs/query.md), over Arrow columns."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from loopworks.core.query import (
    NEVER,
    Among,
    And,
    Between,
    Column,
    Compare,
    Count,
    Field,
    Kind,
    Match,
    Missing,
    Node,
    Not,
    Or,
    Value,
    fields,
)
from loopworks.data.query.parser import parse
from loopworks.store import arrays

if TYPE_CHECKING:
    import pyarrow as pa

    from loopworks.data.tables.census import Census
    from loopworks.data.tables.table import Schema

SPLIT = Column("split", (), "text")
"""The row's split, where no column is called so."""
_KINDS: dict[str, Kind] = {
    "int": "number", "float": "number", "bool": "truth", "date": "time", "datetime": "time", "time": "clock",
}  # fmt: skip


def read(query: str, told: "Schema") -> Node:
    """What a query says of the rows of a table with these columns.

    Raises: Invalid: it cannot be read, or names a column that is not there; the hint shows the place.
    """
    known = {"split": SPLIT}
    known |= {one.name: Column(one.name, (), _KINDS.get(one.type, "text")) for one in told.columns}
    return parse(query, known)


def names(node: Node) -> list[str]:
    """The columns that a condition looks at, each once; the row's split is none."""
    return list(dict.fromkeys(found.name for found in fields(node) if found is not SPLIT))


def simpler(node: Node, census: "Mapping[str, Census]") -> Node:
    """The same condition, with ``NEVER`` for what no row can fulfil by the known values of its columns."""
    match node:
        case And(parts):
            some = tuple(simpler(part, census) for part in parts)
            return NEVER if NEVER in some else And(some)
        case Or(parts):
            some = tuple(one for one in (simpler(part, census) for part in parts) if one != NEVER)
            return Or(some)
        case Compare(found, "=", str() as value):
            return node if _is_there(census, found, value) else NEVER
        case Among(found, values):
            some_of = tuple(v for v in values if not isinstance(v, str) or _is_there(census, found, v))
            return Among(found, some_of) if some_of else NEVER
    return node


def mask(node: Node, rows: "pa.Table") -> "pa.Array":
    """For each row whether it fulfils the condition; ``rows``: its columns, typed, as ``=NAME``; ``_split``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def of(found: Field) -> Any:
        return rows.column("_split" if found is SPLIT else f"={found.name}")

    def all_of(parts: tuple[Node, ...], join: Callable[[Any, Any], Any], empty: bool) -> Any:
        hits = pa.array([empty]).take(pa.array([0] * rows.num_rows, pa.int64()))
        for part in parts:
            hits = join(hits, mask(part, rows))
        return hits

    match node:
        case And(parts):
            return all_of(parts, pc.and_, True)
        case Or(parts):
            return all_of(parts, pc.or_, False)
        case Not(part):
            return pc.invert(mask(part, rows))
        case Missing(found):
            return pc.invert(_present(of(found)))
        case Among(found, values):
            return all_of(tuple(Compare(found, "=", value) for value in values), pc.or_, False)
        case Between(found, low, high):
            return all_of((Compare(found, ">=", low), Compare(found, "<=", high)), pc.and_, True)
        case Compare(found, "like", value):
            hits = pa.array(arrays.like(pc.fill_null(of(found), "").combine_chunks(), str(value)))
            return pc.and_(hits, _present(of(found)))
        case Compare(found, op, value):
            one = of(found)
            two = of(value) if isinstance(value, Field) else _scalar(value, one.type)
            if isinstance(value, Field) and pa.types.is_temporal(one.type):
                one, two = (pc.cast(side, pa.timestamp("us")) for side in (one, two))
            elif pa.types.is_date(one.type):
                one = pc.cast(one, pa.timestamp("us"))
            hits = pc.fill_null(_OPERATORS[op](one, two), False)
            return pc.and_(hits, _present(one)) if pa.types.is_string(one.type) else hits
        case Count() | Match():
            raise AssertionError("the parser lets none of these through for a table")


def _compare(name: str) -> Callable[[Any, Any], Any]:
    def apply(one: Any, two: Any) -> Any:
        import pyarrow.compute as pc

        return getattr(pc, name)(one, two)

    return apply


_OPERATORS = {
    "=": _compare("equal"), "<": _compare("less"), "<=": _compare("less_equal"), ">": _compare("greater"),
    ">=": _compare("greater_equal"),
}  # fmt: skip


def _present(values: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    there = pc.is_valid(values)
    return pc.and_(there, pc.fill_null(pc.not_equal(values, ""), False)) if pa.types.is_string(values.type) else there


def _scalar(value: Value, kind: Any) -> Any:
    import pyarrow as pa

    if isinstance(value, datetime):
        is_zoned = pa.types.is_timestamp(kind) and kind.tz is not None
        plain = value.astimezone(UTC)
        return pa.scalar(
            plain if is_zoned else plain.replace(tzinfo=None), pa.timestamp("us", "UTC" if is_zoned else None)
        )
    return pa.scalar(value)


def _is_there(census: "Mapping[str, Census]", found: Field, value: str) -> bool:
    """Whether some row may have this text; a census that lists no values knows nothing."""
    if found is SPLIT or found.name not in census or census[found.name].values is None:
        return True
    return value in {text.strip() for text in census[found.name].values or ()}
