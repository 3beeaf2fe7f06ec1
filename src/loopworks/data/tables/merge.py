"""From the spool into segments: what is new is merged with what is there, one piece of the key's range at a time."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from loopworks.core.errors import Invalid
from loopworks.data.tables import keys, segments
from loopworks.data.tables.keys import Keys
from loopworks.data.tables.spool import Spool
from loopworks.store.blobs import BlobStore, Writer
from loopworks.store.segments import Segment

if TYPE_CHECKING:
    import pyarrow as pa

THREADS = 2


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a rewriting did."""

    digits: int = 0
    rows: int = 0
    added: int = 0
    known: int = 0
    changed: int = 0
    twice: int = 0
    """Rows whose id came twice with different cells; the last one holds."""
    gone: list[int] = field(default_factory=list)
    fresh: list[Segment] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class _Unit:
    """What became of one piece of the key's range."""

    added: int = 0
    known: int = 0
    changed: int = 0
    twice: int = 0
    table: Any = None
    is_same: bool = True


def spread_equal_rows(spool: Spool) -> None:
    """Give the second and later rows of equal content within a file keys of their own, which lie elsewhere."""
    spool.drop("again")
    for part in range(16**spool.digits):
        tables = list(spool.read(part))
        if not tables:
            continue
        content, number = _numbered(tables)
        at = 0
        for table in tables:
            here = number[at : at + table.num_rows]
            if here.any():
                places = np.flatnonzero(here)
                pairs = zip(content[at + places].tolist(), here[places].tolist(), strict=True)
                joined = b"".join([keys.again(bytes(key), count) for key, count in pairs])
                fresh = np.frombuffer(joined, f"V{keys.SIZE}")
                rows = table.take(places)
                rows = rows.set_column(rows.column_names.index("_key"), "_key", keys.as_arrow(fresh))
                spool.add(rows, fresh, "again")
            at += table.num_rows
        if spool.is_full:
            spool.flush()


def merge(
    blobs: BlobStore,
    writer: Writer,
    spool: Spool,
    old: Sequence[Segment],
    old_digits: int,
    names: Sequence[str],
    *,
    has_id: bool,
    first_order: int,
    spooled: int,
    progress: Callable[[float], None] | None = None,
) -> Outcome:
    """Merge the spooled rows with the segments; the new segments are in ``writer`` when it returns.

    Args:
        blobs: where the old segments are read.
        writer: where the new ones go.
        spool: the rows.
        old: the table's segments.
        old_digits: hex digits that tell them apart.
        names: the table's columns, old and new.
        has_id: whether an id column says who a row is.
        first_order: import number of the first new row.
        spooled: number of the rows.
        progress: takes the share done in 0..1.
    """
    out = segments.digits_for(sum(segment.rows for segment in old) + spooled)
    digits = min(spool.digits, out)
    before = _Old(blobs, old, old_digits, digits, names)

    def work(unit: int) -> _Unit:
        tables = list(_spooled(spool, unit, digits, has_id=has_id))
        if old_digits == out:  # most often nothing is new, and then the keys alone will do
            known = before.rows(unit, whole=False)
            own = [table.select(["_key", "_hash", "_order", "_file"]) for table in tables]
            found = _merge_unit(known, own, (), has_id=has_id, first_order=first_order)
            if found.is_same:
                return found
        there = before.rows(unit)
        return _merge_unit(there, tables, names, has_id=has_id, first_order=first_order)

    return _rewrite(writer, old, old_digits, digits, out, work, progress)


def rewrite(
    blobs: BlobStore,
    writer: Writer,
    old: Sequence[Segment],
    digits: int,
    step: "Callable[[pa.Table], pa.Table | None]",
    progress: Callable[[float], None] | None = None,
) -> Outcome:
    """Pass every segment through ``step``, which gives the rows that take its place, or ``None``: as they were."""
    by_number = {segment.number: segment for segment in old}

    def work(unit: int) -> _Unit:
        if unit not in by_number:
            return _Unit()
        table = segments.load(blobs, by_number[unit])
        found = step(table)
        return _Unit(table=table if found is None else found, is_same=found is None)

    return _rewrite(writer, old, digits, digits, digits, work, progress)


def _rewrite(
    writer: Writer,
    old: Sequence[Segment],
    old_digits: int,
    digits: int,
    out: int,
    work: Callable[[int], _Unit],
    progress: Callable[[float], None] | None,
) -> Outcome:
    """Run ``work`` for every piece of ``digits``, and write what it gives in segments of ``out`` (more) digits."""
    done = Outcome(digits=out)
    total = 16**digits
    kept: dict[int, Segment] = {}

    def one(unit: int) -> tuple[_Unit, list[Segment] | None]:
        found = work(unit)
        if found.is_same and (old_digits == out or found.table is None):
            return found, None
        rows = found.table
        found.table = None
        return found, [_write(writer, number, part) for number, part in cut(rows, out)]

    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, total, THREADS):
            units = range(start, min(start + THREADS, total))
            for unit, (found, written) in zip(units, pool.map(one, units), strict=True):
                done.added += found.added
                done.known += found.known
                done.changed += found.changed
                done.twice += found.twice
                if written is not None:
                    done.fresh += written
                elif old_digits == out:
                    width = 16 ** (out - digits)
                    kept |= {segment.number: segment for segment in old if segment.number // width == unit}
            if progress:
                progress(min(1.0, (start + THREADS) / total))
    done.rows = sum(segment.rows for segment in (*kept.values(), *done.fresh))
    done.gone = [segment.number for segment in old if segment.number not in kept]
    return done


def recut(blobs: BlobStore, writer: Writer, live: Sequence[Segment], digits: int, wanted: int) -> list[Segment]:
    """The same rows in segments of ``wanted`` digits."""
    done: list[Segment] = []
    by_number = {segment.number: segment for segment in live}
    if wanted > digits:
        for segment in live:
            table = segments.load(blobs, segment)
            done += [_write(writer, number, part) for number, part in cut(table, wanted)]
        return done
    width = 16 ** (digits - wanted)
    for number in range(16**wanted):
        found = [by_number[place] for place in range(number * width, (number + 1) * width) if place in by_number]
        if found:
            tables = [segments.load(blobs, segment) for segment in found]
            done.append(_write(writer, number, _joined(tables)))
    return done


def cut(table: "pa.Table", digits: int) -> "Iterator[tuple[int, pa.Table]]":
    """The rows (in order of their keys) by segment."""
    places = keys.partitions(segments.key_column(table), digits)
    marks = np.flatnonzero(np.diff(places)) + 1
    for start, stop in zip([0, *marks.tolist()], [*marks.tolist(), len(places)], strict=True):
        if stop > start:
            yield int(places[start]), table.slice(start, stop - start)


def _write(writer: Writer, number: int, table: "pa.Table") -> Segment:
    import pyarrow.compute as pc

    table = segments.slim(table.combine_chunks())
    counts = segments.count(table)
    splits = pc.value_counts(table.column("_split").combine_chunks())
    stats = {
        "columns": {name: found.to_json() for name, found in counts.items()},
        "splits": {pair["values"]: pair["counts"] for pair in splits.to_pylist()},
    }
    blob = writer.add(segments.encode(table))
    return Segment(number=number, blob=blob, digest=segments.digest(table), rows=table.num_rows, stats=stats)


def _joined(tables: "Sequence[pa.Table]") -> "pa.Table":
    names = list(dict.fromkeys(name[1:] for table in tables for name in table.column_names if name.startswith(":")))
    return segments.aligned(tables, names)


class _Old:
    """The rows that are there, by pieces that may be larger or smaller than their segments."""

    def __init__(
        self, blobs: BlobStore, old: Sequence[Segment], old_digits: int, digits: int, names: Sequence[str]
    ) -> None:
        self._blobs, self._old, self._names = blobs, old, names
        self._old_digits, self._digits = old_digits, digits
        self._lock = threading.Lock()
        self._cut: tuple[int, dict[int, Any]] = (-1, {})

    def rows(self, unit: int, *, whole: bool = True) -> "pa.Table | None":
        """The rows of a piece; their keys and contents alone, where they are not wanted whole."""
        if self._old_digits >= self._digits:
            width = 16 ** (self._old_digits - self._digits)
            found = [segment for segment in self._old if segment.number // width == unit]
            if not found:
                return None
            columns = None if whole else ()
            tables = [segments.load(self._blobs, segment, columns) for segment in found]
            return segments.aligned(tables, self._names if whole else ())
        large = unit // 16 ** (self._digits - self._old_digits)
        with self._lock:  # pieces come in order, so the one segment that they are cut from is kept
            if self._cut[0] != large:
                found = [segment for segment in self._old if segment.number == large]
                tables = [segments.load(self._blobs, segment) for segment in found]
                self._cut = (large, dict(cut(segments.aligned(tables, self._names), self._digits)) if tables else {})
            return self._cut[1].get(unit)


def _spooled(spool: Spool, unit: int, digits: int, *, has_id: bool) -> "Iterator[pa.Table]":
    width = 16 ** (spool.digits - digits)
    for part in range(unit * width, (unit + 1) * width):
        tables = list(spool.read(part))
        if has_id or not tables:
            yield from tables
        else:
            _, number = _numbered(tables)
            at = 0
            for table in tables:
                first = number[at : at + table.num_rows] == 0
                at += table.num_rows
                yield table if first.all() else table.filter(first)
        if not has_id:
            yield from spool.read(part, "again")


def _numbered(tables: "Sequence[pa.Table]") -> tuple[Keys, Any]:
    """The content of each row, and how many rows of its file before it have the same."""
    content = np.concatenate([keys.as_keys(table.column("_hash").combine_chunks()) for table in tables])
    file = np.concatenate([table.column("_file").to_numpy() for table in tables])
    pairs = keys.numbers(content)
    order = np.lexsort((file, pairs[:, 1], pairs[:, 0]))
    same = np.zeros(len(order), bool)
    if len(order) > 1:
        left, right = order[:-1], order[1:]
        same[1:] = (pairs[left] == pairs[right]).all(axis=1) & (file[left] == file[right])
    place = np.arange(len(order))
    start = np.maximum.accumulate(np.where(same, 0, place))
    number = np.empty(len(order), np.int64)
    number[order] = place - start
    return content, number


def _merge_unit(
    there: "pa.Table | None", tables: "Sequence[pa.Table]", names: Sequence[str], *, has_id: bool, first_order: int
) -> _Unit:
    import pyarrow as pa

    done = _Unit(table=there)
    tables = [table for table in tables if table.num_rows]
    if not tables:
        return done
    fresh = _arriving(tables, names, first_order)
    fresh = fresh.take(keys.sort_order(segments.key_column(fresh)))
    key, content = segments.key_column(fresh), keys.as_keys(fresh.column("_hash").combine_chunks())
    pairs = keys.numbers(key)
    is_last = np.ones(len(key), bool)
    is_last[:-1] = (pairs[:-1] != pairs[1:]).any(axis=1)
    if has_id:
        said = keys.numbers(content)
        done.twice = int((~is_last[:-1] & (said[:-1] != said[1:]).any(axis=1)).sum())
    repeated = int((~is_last).sum())
    if repeated and not has_id:  # of equal rows the first holds, for its place in the order of import
        is_last = np.ones(len(key), bool)
        is_last[1:] = (pairs[:-1] != pairs[1:]).any(axis=1)
    fresh, content, pairs = fresh.filter(is_last), content[is_last], pairs[is_last]
    done.known = repeated
    if there is not None:
        mine = keys.numbers(segments.key_column(there))
        at, is_there = _positions(mine, pairs)
        old_content = keys.numbers(segments.content_column(there))
        is_changed = is_there & (keys.numbers(content) != old_content[np.minimum(at, len(mine) - 1)]).any(axis=1)
        is_changed &= has_id
        done.changed = int(is_changed.sum())
        done.known += int((is_there & ~is_changed).sum())
        if done.changed:
            replaced = at[is_changed]
            kept = np.ones(there.num_rows, bool)
            kept[replaced] = False
            newer = fresh.filter(is_changed)
            for name in ("_order", "_split"):  # it stays in its place, and in the split that it is in
                newer = newer.set_column(newer.column_names.index(name), name, there.column(name).take(replaced))
            there = pa.concat_tables([there.filter(kept), newer])
        fresh = fresh.filter(~is_there)
    done.added = fresh.num_rows
    if done.added or done.changed:
        both = [fresh] if there is None else [there, fresh]
        done.table = segments.by_key(pa.concat_tables(both).combine_chunks())
        done.is_same = False
    return done


def _arriving(tables: "Sequence[pa.Table]", names: Sequence[str], first_order: int) -> "pa.Table":
    """Spooled rows as rows of a segment: ``_hash`` always, the split empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    done = []
    for table in tables:
        own = {
            "_key": table.column("_key"),
            "_hash": table.column("_hash"),
            "_order": pc.add(table.column("_order"), first_order),
            "_split": pa.array([""] * table.num_rows, pa.string()),
        }
        user = [name for name in table.column_names if name.startswith(":")]
        done.append(pa.table({**own, **{name: table.column(name) for name in user}}))
    return segments.aligned(done, names)


def _positions(mine: Any, others: Any) -> tuple[Any, Any]:
    """Where each of ``others`` stands in ``mine`` (both sorted pairs of numbers), and whether it is there."""
    high, low = np.ascontiguousarray(mine[:, 0]), mine[:, 1]
    at = np.searchsorted(high, others[:, 0])
    last = len(mine) - 1
    while True:  # keys that are equal in their first half are all but unheard of
        inside = np.minimum(at, last)
        step = (at <= last) & (high[inside] == others[:, 0]) & (low[inside] < others[:, 1])
        if not step.any():
            break
        at = at + step
    inside = np.minimum(at, last)
    return inside, (at <= last) & (high[inside] == others[:, 0]) & (low[inside] == others[:, 1])


def settle(writer: Writer, spool: Spool, names: Sequence[str], out: int, *, id: str) -> list[Segment]:
    """All spooled rows as segments of ``out`` digits; ``Invalid`` where two have one id."""
    done: list[Segment] = []
    for unit in range(16**spool.digits):
        tables = [table for table in _spooled(spool, unit, spool.digits, has_id=bool(id)) if table.num_rows]
        if not tables:
            continue
        rows = segments.by_key(segments.aligned(tables, names))
        pairs = keys.numbers(segments.key_column(rows))
        same = (pairs[1:] == pairs[:-1]).all(axis=1)
        if same.any():
            value = rows.column(":" + id)[int(np.argmax(same))].as_py()
            raise Invalid("id column", "of one row each", f"{id!r}, with {value!r} in several rows")
        done += [_write(writer, number, part) for number, part in cut(rows, out)]
    return done
