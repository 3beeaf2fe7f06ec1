"""What the columns hold: types, missing and distinct values, quantiles, histograms; and what looks wrong."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from loopworks.data.tables import leaks, schema
from loopworks.data.tables.leaks import Leak
from loopworks.data.tables.pages import plain, typed_part
from loopworks.data.tables.schema import Column
from loopworks.data.tables.sketch import Distinct, Frequent, Quantiles, number_hashes, text_hashes

if TYPE_CHECKING:
    import pyarrow as pa

    from loopworks.data.tables.table import Schema, Table

SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BARS = 24
TOP = 10
RARE = 0.05
"""Share of a class below which the target is called imbalanced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warning:
    """Something that a person should look at."""

    kind: str
    """constant, high_cardinality, all_missing, id_like, duplicate_rows, imbalanced, infinite, mixed, unit, leak ..."""
    column: str
    message: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"kind": self.kind, "column": self.column, "message": self.message}


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnProfile:
    """One column in figures."""

    name: str
    type: str
    missing: int
    distinct: int
    is_distinct_exact: bool
    numbers: Mapping[str, float] = field(default_factory=dict)
    """min, max, mean, std (of all rows), infinite, and p1 ... p99; of dates in seconds since 1970."""
    histogram: tuple[tuple[float, float, int], ...] = ()
    """(from, to, rows) of bars of equal width."""
    top: tuple[tuple[str, int], ...] = ()
    """Most frequent values."""
    leak_score: float | None = None
    """How well the column alone predicts the target; see ``leaks``."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "name": self.name,
            "type": self.type,
            "missing": self.missing,
            "distinct": self.distinct,
            "is_distinct_exact": self.is_distinct_exact,
            "numbers": {name: plain(value) for name, value in self.numbers.items()},
            "histogram": [list(bar) for bar in self.histogram],
            "top": [list(pair) for pair in self.top],
            "leak_score": self.leak_score,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A table in figures."""

    dataset: str
    rows: int
    duplicates: int
    """Rows that are equal to one before them."""
    columns: tuple[ColumnProfile, ...]
    warnings: tuple[Warning, ...]
    leaks: tuple[Leak, ...]
    target: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "dataset": self.dataset,
            "rows": self.rows,
            "duplicates": self.duplicates,
            "target": self.target,
            "columns": [column.to_json() for column in self.columns],
            "warnings": [warning.to_json() for warning in self.warnings],
            "leaks": [leak.to_json() for leak in self.leaks],
        }

    def to_html(self) -> str:
        """A page with plots that needs nothing else."""
        from loopworks.data.tables import report

        return report.html(self)


class _Stats:
    """What passes by of one column."""

    def __init__(self, column: Column) -> None:
        self.column = column
        self.missing = self.filled = self.infinite = 0
        self.mean = self.square = 0.0
        self.low, self.high = math.inf, -math.inf
        self.quantiles, self.distinct, self.frequent = Quantiles(), Distinct(), Frequent()

    def add(self, cells: "pa.Array") -> None:
        import pyarrow.compute as pc

        self.missing += cells.null_count
        self.filled += len(cells) - cells.null_count
        cells = cells.drop_null()
        if not len(cells):
            return
        if self.column.type in schema.WORDS or self.column.type in ("bool", "empty"):
            pairs = pc.value_counts(cells)
            values = [
                str(value).lower() if value in (True, False) else value for value in pairs.field("values").to_pylist()
            ]
            self.distinct.add(text_hashes(values))
            self.frequent.add(values, pairs.field("counts").to_pylist())
            return
        numbers = as_numbers(cells)
        self.distinct.add(number_hashes(numbers))
        pairs = pc.value_counts(cells)
        if len(pairs) <= len(cells) / 2 or len(pairs) <= 1000:
            values = [plain(value) for value in pairs.field("values").to_pylist()]
            self.frequent.add(values, pairs.field("counts").to_pylist())
        finite = numbers[np.isfinite(numbers)]
        self.infinite += len(numbers) - len(finite)
        if len(finite):
            self._moments(finite)
            self.quantiles.add(finite)
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))

    def done(self, score: float | None) -> ColumnProfile:
        numbers: dict[str, float] = {}
        bars: tuple[tuple[float, float, int], ...] = ()
        if self.quantiles.count:
            shares = self.quantiles.at(list(SHARES))
            numbers = {
                "min": self.low,
                "max": self.high,
                "mean": self.mean,
                "std": math.sqrt(max(0.0, self.square / self.quantiles.count)),
                "infinite": self.infinite,
                **{f"p{round(share * 100)}": value for share, value in zip(SHARES, shares, strict=True)},
            }
            bars = _bars(self.quantiles, self.low, self.high)
        return ColumnProfile(
            name=self.column.name,
            type=self.column.type,
            missing=self.missing,
            distinct=self.distinct.count,
            is_distinct_exact=self.distinct.is_exact,
            numbers=numbers,
            histogram=bars,
            top=tuple((str(value), number) for value, number in self.frequent.top(TOP)),
            leak_score=score,
        )

    def _moments(self, values: NDArray[np.float64]) -> None:
        """Source: Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise algorithm for sample variances"."""
        before, count = self.quantiles.count, len(values)
        mean = float(values.mean())
        gap = mean - self.mean
        self.square += float(((values - mean) ** 2).sum()) + gap * gap * before * count / (before + count)
        self.mean += gap * count / (before + count)


def profile(table: "Table", progress: Callable[[float], None] | None = None) -> Profile:
    """The table in figures, by one pass over it; memory does not grow with its rows.

    Args:
        table: the table.
        progress: takes the share done in 0..1.
    """
    from loopworks.data.tables.table import schema_of

    live = table.live()
    told = schema_of(live.state)
    stats = {column.name: _Stats(column) for column in told.columns}
    sample: list[Any] = []
    sampled = duplicates = done = 0
    for part in table.scan(live, live.names):
        if not told.id:
            duplicates += part.num_rows - part.column("_hash").null_count
        rows = typed_part(part, told, live.names, "=")
        for name, one in stats.items():
            one.add(rows.column("=" + name).combine_chunks())
        if sampled < leaks.SAMPLE and told.target:
            words = _raw_target(part, told)
            sample.append(rows.append_column("target", words).slice(0, leaks.SAMPLE - sampled))
            sampled += part.num_rows
        done += part.num_rows
        if progress:
            progress(done / max(live.state.rows, 1))
    found, scores = _leaks(sample, told, table.task)
    columns = tuple(one.done(scores.get(name)) for name, one in stats.items())
    warnings = tuple(_warnings(told, columns, live.state.rows, duplicates, table.task))
    warnings += tuple(Warning(kind="leak", column=leak.column, message=leak.message) for leak in found)
    return Profile(
        dataset=table.name,
        rows=live.state.rows,
        duplicates=duplicates,
        columns=columns,
        warnings=warnings,
        leaks=tuple(found),
        target=told.target,
    )


def as_numbers(cells: "pa.Array") -> NDArray[np.float64]:
    """Numbers, dates and times as float64, missing ones as NaN; moments in seconds since 1970."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_date32(cells.type):
        days = pc.cast(pc.cast(cells, pa.int32()), pa.float64())
        cells = pc.multiply(days, 86_400.0)
    elif pa.types.is_timestamp(cells.type):
        cells = pc.divide(pc.cast(pc.cast(cells, pa.int64()), pa.float64(), safe=False), 1e6)
    found: NDArray[np.float64] = pc.cast(cells, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return found


def _raw_target(part: "pa.Table", told: "Schema") -> "pa.Array":
    from dataclasses import replace

    cells = part.column(":" + told.target).combine_chunks()
    return schema.typed(cells, replace(told.column(told.target), type="category"))


def _leaks(sample: "list[pa.Table]", told: "Schema", task: str) -> tuple[list[Leak], dict[str, float]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not sample:
        return [], {}
    rows = pa.concat_tables(sample)
    rows = rows.filter(pc.is_valid(rows.column("target")))
    is_regression = task == "tabular-regression"
    columns: dict[str, tuple[str, NDArray[Any]]] = {}
    for column in told.columns:
        if column.name in (told.target, told.id) or column.type in ("empty", "id"):
            continue
        cells = rows.column("=" + column.name).combine_chunks()
        if column.type in schema.WORDS or column.type == "bool":
            columns[column.name] = ("word", np.array(pc.cast(cells, pa.string()).to_pylist(), object))
        else:
            kind = "moment" if column.type in schema.TIMES else "number"
            columns[column.name] = (kind, as_numbers(cells))
    goal = rows.column("=" + told.target).combine_chunks() if is_regression else rows.column("target").combine_chunks()
    if not rows.num_rows:
        return [], {}
    target = as_numbers(goal) if is_regression else np.array(goal.to_pylist(), object)
    found, scores = leaks.find(columns, target, is_regression=is_regression)
    if told.time:
        when = columns[told.time][1]
        for name, (kind, values) in columns.items():
            known = {leak.column for leak in found}
            if (
                kind == "moment"
                and name != told.time
                and name not in known
                and (one := leaks.later(name, values, when))
            ):
                found.append(one)
    return found, scores


def _warnings(
    told: "Schema", columns: tuple[ColumnProfile, ...], rows: int, duplicates: int, task: str
) -> "list[Warning]":
    done: list[Warning] = []

    def warn(kind: str, column: str, message: str) -> None:
        done.append(Warning(kind=kind, column=column, message=message))

    if duplicates:
        warn("duplicate_rows", "", f"{duplicates} rows are equal to one before them")
    for column, known in zip(columns, told.columns, strict=True):
        name, filled = column.name, rows - column.missing
        if not filled:
            warn("all_missing", name, f"column {name!r} is empty in every row")
        elif column.distinct == 1 and rows > 1:
            gap = f" (or missing, in {column.missing} rows)" if column.missing else ""
            warn(
                "constant",
                name,
                f"column {name!r} is {column.top[0][0] if column.top else 'one value'!r} everywhere{gap}",
            )
        elif column.type == "id" and name != told.id:
            warn("id_like", name, f"column {name!r} has each value once, like an id: leave it out of training")
        elif column.type == "int" and column.distinct >= 0.999 * rows and rows >= 100 and _counts_up(column, rows):
            warn("id_like", name, f"column {name!r} counts the rows, like an id: leave it out of training")
        elif column.type in ("category", "text") and filled >= 100 and column.distinct > max(50, 0.5 * filled):
            warn("high_cardinality", name, f"column {name!r} has {column.distinct} values in {filled} rows")
        elif column.type == "category" and column.distinct > 100:
            warn("high_cardinality", name, f"column {name!r} has {column.distinct} values")
        if column.numbers.get("infinite"):
            warn("infinite", name, f"column {name!r} is infinite in {int(column.numbers['infinite'])} rows")
        for note in known.notes:
            if note != "each value once":
                warn(
                    "unit" if known.units else "mixed" if note.startswith("mixed") else "note",
                    name,
                    f"{name!r}: {note}",
                )
        if name == told.target:
            _target(column, rows, task, warn)
    return done


def _target(column: ColumnProfile, rows: int, task: str, warn: Callable[[str, str, str], None]) -> None:
    if column.missing:
        warn("missing_target", column.name, f"the target {column.name!r} is missing in {column.missing} rows")
    if task == "tabular-classification" and column.top:
        least = min(number for _, number in column.top)
        if len(column.top) > 1 and least < RARE * (rows - column.missing):
            rare = [f"{value!r} ({number})" for value, number in column.top if number < RARE * (rows - column.missing)]
            warn("imbalanced", column.name, f"the target {column.name!r} has rare classes: {', '.join(rare)}")


def _counts_up(column: ColumnProfile, rows: int) -> bool:
    return column.numbers["max"] - column.numbers["min"] <= 1.01 * rows


def _bars(found: Quantiles, low: float, high: float) -> tuple[tuple[float, float, int], ...]:
    values, weights = found.points()
    if low == high:
        return ((low, high, found.count),)
    counts, edges = np.histogram(values, bins=BARS, range=(low, high), weights=weights)
    return tuple((float(a), float(b), round(c)) for a, b, c in zip(edges, edges[1:], counts.tolist(), strict=False))
