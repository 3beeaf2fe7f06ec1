"""Rows into train, val and test: by class, by group or by time; what has a split keeps it."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid
from loopworks.data.splits import check_shares
from loopworks.data.tables import keys, merge, schema, segments
from loopworks.data.tables.profile import as_numbers
from loopworks.data.tables.sketch import Quantiles
from loopworks.store.segments import State

if TYPE_CHECKING:
    import pyarrow as pa

    from loopworks.data.tables.table import Live, Schema, Table

SPLITS = ("train", "val", "test")
STRATA = 10
"""A target that is a number is cut into so many equal parts."""


def split(table: "Table", test: float, val: float, *, group: str, time: str, seed: int, author: str) -> dict[str, int]:
    """Put the rows that have no split yet into train, val and test.

    The draw of a row is the hash of its key and the seed, so it is the same on every machine and in any order, and new
    rows move no old ones. Rows of a stratum are shared out with those that are in a split already.

    Args:
        table: the table.
        test: share of the test set, in 0..1.
        val: share of the validation set, in 0..1.
        group: column; rows with the same value (a customer, a camera) stay together, also rows that come later.
        time: column of dates; the newest rows are the test set, those before them the validation set. The limits are
            kept: later rows go by them.
        seed: another seed, another draw.
        author: who does it.
    Returns: the number of rows in each split now.
    Raises:
        Invalid: shares that leave nothing to train on, group and time together, a time column without times.
        NotFound: no such column.
    """
    from loopworks.data.tables.table import schema_of

    check_shares(test, val)
    if group and time:
        raise Invalid("split", "by group or by time", "both")
    live = table.live(with_stats=True)
    told = schema_of(live.state)
    body = dict(live.state.body)
    splits = dict(body.get("splits", {}))
    if splits.get("", 0):
        if group:
            plan: Any = _Groups(table, live, told, group, test, val, seed)
        elif time:
            plan = _Times(table, live, told, time, test, val)
            body["cuts"] = {**body.get("cuts", {}), time: plan.cuts}
        else:
            plan = _Strata(table, live, told, test, val, seed)

        def step(part: "pa.Table") -> "pa.Table | None":
            import pyarrow as pa

            now = np.array(part.column("_split").to_pylist(), object)
            is_free = now == ""
            if not is_free.any():
                return None
            now[is_free] = plan.splits(part)[is_free]
            at = part.column_names.index("_split")
            return part.set_column(at, "_split", pa.array(now.tolist(), pa.string()))

        with table.home.blobs.writer() as writer:
            done = merge.rewrite(table.home.blobs, writer, live.segments, live.state.digits, step)
        clock, digits, count = live.state.clock + 1, live.state.digits, live.state.rows
        after = State(clock=clock, digits=digits, rows=count, body=body, op="split", author=author)
        table.commit(live, after, done.gone, done.fresh, author)
        splits = dict(table.live().state.body["splits"])
    return {name: splits.get(name, 0) for name in SPLITS}


class _Strata:
    """By the target: classes, or tenths of a number. The rows of the lowest draws of each stratum leave train."""

    def __init__(self, table: "Table", live: "Live", told: "Schema", test: float, val: float, seed: int) -> None:
        self._target, self._told, self._seed = told.target, told, seed
        self._edges: NDArray[np.float64] | None = None
        is_number = bool(told.target) and told.column(told.target).type in schema.NUMBERS
        self._is_tenths = is_number and table.task == "tabular-regression"
        if self._is_tenths:
            found = Quantiles()
            for part in table.scan(live, [told.target]):
                values = as_numbers(self._cells(part).drop_null())
                found.add(values[np.isfinite(values)])
            self._edges = np.array(found.at([place / STRATA for place in range(1, STRATA)]))
        free: dict[str, list[NDArray[np.uint64]]] = {}
        have: dict[str, dict[str, int]] = {}
        for part in table.scan(live, [told.target] if told.target else []):
            names = self._names(part)
            draws = keys.draws(segments.key_column(part), seed)
            now = np.array(part.column("_split").to_pylist(), object)
            for name in np.unique(names).tolist():
                inside = names == name
                is_free = inside & (now == "")
                free.setdefault(name, []).append(draws[is_free])
                held = have.setdefault(name, dict.fromkeys(SPLITS, 0))
                for one in SPLITS:
                    held[one] += int((inside & (now == one)).sum())
        self._limits = {name: _limits(np.concatenate(free[name]), have[name], test, val) for name in free}

    def splits(self, part: "pa.Table") -> NDArray[Any]:
        draws = keys.draws(segments.key_column(part), self._seed)
        names = self._names(part)
        done = np.full(len(draws), "train", object)
        for name in np.unique(names).tolist():
            last_test, last_val = self._limits[name]
            inside = names == name
            done[inside & (draws < last_val)] = "val"
            done[inside & (draws < last_test)] = "test"
        return done

    def _cells(self, part: "pa.Table") -> "pa.Array":
        from dataclasses import replace

        column = self._told.column(self._target)
        column = column if self._is_tenths else replace(column, type="category")
        return schema.typed(part.column(":" + self._target).combine_chunks(), column)

    def _names(self, part: "pa.Table") -> NDArray[Any]:
        if not self._target:
            return np.full(part.num_rows, "")
        cells = self._cells(part)
        if self._edges is None:
            return np.array(cells.fill_null("").to_pylist())
        return np.searchsorted(self._edges, as_numbers(cells), side="right").astype(str)


class _Groups:
    """By the value of a column. Where a group has rows in a split (in several: test before val before train), the
    others follow; else the draw of its name decides."""

    def __init__(
        self, table: "Table", live: "Live", told: "Schema", group: str, test: float, val: float, seed: int
    ) -> None:
        from dataclasses import replace

        self._group, self._column = group, replace(told.column(group), type="category")
        self._test, self._val, self._seed = test, val, seed
        self._known: dict[str, str] = {}
        for part in table.scan(live, [group]):
            pairs = zip(self._values(part), part.column("_split").to_pylist(), strict=True)
            for value, now in set(pairs):
                old = self._known.get(value, "") if value is not None else ""
                if value is not None and now and SPLITS.index(now) > (SPLITS.index(old) if old else -1):
                    self._known[value] = now

    def splits(self, part: "pa.Table") -> NDArray[Any]:
        import pyarrow as pa

        values = self._values(part)
        names = pa.array([value if value is not None else "" for value in values], pa.string())
        own = np.array([value is None for value in values])  # a row without a group is a group of its own
        found = keys.hashes(names).copy()
        found[own] = segments.key_column(part)[own]
        draws = keys.draws(found, self._seed, self._group).astype(np.float64) / 2.0**64
        done = np.where(draws < self._test, "test", np.where(draws < self._test + self._val, "val", "train"))
        drawn = done.tolist()
        return np.array(
            [
                self._known.get(value, now) if value is not None else now
                for value, now in zip(values, drawn, strict=True)
            ],
            object,
        )

    def _values(self, part: "pa.Table") -> list[str | None]:
        cells = schema.typed(part.column(":" + self._group).combine_chunks(), self._column)
        values: list[str | None] = cells.to_pylist()
        return values


class _Times:
    """By time: the newest rows are the test set."""

    def __init__(self, table: "Table", live: "Live", told: "Schema", time: str, test: float, val: float) -> None:
        column = told.column(time)
        if column.type not in schema.TIMES:
            raise Invalid("time column", "of type date or datetime", f"{time!r} of {column.type}")
        self._time, self._column = time, column
        self.cuts = live.state.body.get("cuts", {}).get(time)
        if self.cuts is None:
            found = Quantiles()
            for part in table.scan(live, [time]):
                values = self._values(part)
                found.add(values[np.isfinite(values)])
            self.cuts = found.at([1 - test - val, 1 - test])

    def splits(self, part: "pa.Table") -> NDArray[Any]:
        values = self._values(part)
        first_val, first_test = self.cuts
        late = np.where(values > first_test, "test", np.where(values > first_val, "val", "train"))
        return np.array(late.tolist(), object)  # a row without a time trains: nobody knows that it is new

    def _values(self, part: "pa.Table") -> NDArray[np.float64]:
        return as_numbers(schema.typed(part.column(":" + self._time).combine_chunks(), self._column))


def _limits(draws: NDArray[np.uint64], have: dict[str, int], test: float, val: float) -> tuple[np.uint64, np.uint64]:
    """Draws below the first go to test, below the second to val; together with those that are there they make the
    shares, and a stratum of two rows or more keeps one for training."""
    total = len(draws) + sum(have.values())
    tests = max(0, min(int(test * total + 0.5) - have["test"], len(draws)))
    vals = max(0, min(int(val * total + 0.5) - have["val"], len(draws) - tests))
    if not have["train"] and len(draws) and tests + vals == len(draws):
        tests, vals = (tests, vals - 1) if vals else (tests - 1, vals)
    ordered = np.sort(draws)
    top = np.uint64(2**64 - 1)
    last_test = ordered[tests] if tests < len(ordered) else top
    last_val = ordered[tests + vals] if tests + vals < len(ordered) else top
    return last_test, last_val
