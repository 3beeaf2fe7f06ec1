"""Rows of table segments: which blob holds which part of a table's rows, now and at every state before.

A table's state has a number (its clock). A segment lives from the state that wrote it to the state that replaced it, so
undo needs no copy and any state can be read until its blobs are collected.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, or_, select, update
from sqlalchemy.engine import Connection

from loopworks.core.errors import Conflict, NotFound
from loopworks.store import tables
from loopworks.store.ids import now

_segment = tables.segment
_state = tables.table_state


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One piece of a table: the rows whose key begins with ``number``, in hex."""

    number: int
    blob: str
    """Key of the Parquet file among the blobs."""
    digest: str
    """SHA-256 over the keys, contents and splits of its rows."""
    rows: int
    stats: Mapping[str, Any]
    """``columns``: column -> census; ``splits``: split -> rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a table is at one moment, but for its rows."""

    clock: int
    """0 for a table that has nothing yet; every change counts it up."""
    digits: int
    rows: int
    body: Mapping[str, Any]
    """Columns, choices, split rule: see ``data.tables.table``."""
    op: str
    """What made it: add, delete, choose, split, undo."""
    author: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, without the columns."""
        return {"clock": self.clock, "op": self.op, "author": self.author, "rows": self.rows}


def state(tx: Connection, dataset: str, clock: int | None = None) -> State:
    """The newest state, or the one at ``clock``; an empty one where nothing was ever added."""
    query = select(_state).where(_state.c.dataset == dataset)
    if clock is not None:
        query = query.where(_state.c.clock == clock)
    found = tx.execute(query.order_by(_state.c.clock.desc()).limit(1)).first()
    if found is None:
        if clock:
            raise NotFound("state of the table", clock)
        return State(clock=0, digits=0, rows=0, body={}, op="")
    return State(
        clock=found.clock, digits=found.digits, rows=found.rows, body=found.body, op=found.op, author=found.author
    )


def states(tx: Connection, dataset: str) -> list[State]:
    """All states, newest first."""
    query = select(_state).where(_state.c.dataset == dataset).order_by(_state.c.clock.desc())
    return [
        State(clock=row.clock, digits=row.digits, rows=row.rows, body=row.body, op=row.op, author=row.author)
        for row in tx.execute(query)
    ]


def at(tx: Connection, dataset: str, clock: int, *, with_stats: bool = True) -> list[Segment]:
    """The segments of a state, by number; their stats are long, and left out where nobody needs them."""
    wanted = [column for column in _segment.c if with_stats or column.name != "stats"]
    query = (
        select(*wanted)
        .where(
            _segment.c.dataset == dataset,
            _segment.c.born <= clock,
            or_(_segment.c.died == 0, _segment.c.died > clock),
        )
        .order_by(_segment.c.number)
    )
    return [
        Segment(
            number=row.number, blob=row.blob, digest=row.digest, rows=row.rows, stats=row.stats if with_stats else {}
        )
        for row in tx.execute(query)
    ]


def advance(
    tx: Connection, dataset: str, before: int, after: State, gone: Iterable[int], fresh: Sequence[Segment]
) -> None:
    """Make ``after`` the newest state.

    Args:
        tx: transaction.
        dataset: its id.
        before: the clock that the change was worked out from.
        after: the new state, its clock one higher.
        gone: numbers of the segments that are replaced or dropped.
        fresh: the segments that are new.
    Raises: Conflict: the table has changed since ``before``.
    """
    if (found := state(tx, dataset).clock) != before:
        raise Conflict(f"the table must be at state {before}; got {found}", "somebody changed it meanwhile: try again")
    numbers = sorted(set(gone))
    for start in range(0, len(numbers), 500):
        tx.execute(
            update(_segment)
            .where(
                _segment.c.dataset == dataset,
                _segment.c.died == 0,
                _segment.c.number.in_(numbers[start : start + 500]),
            )
            .values(died=after.clock)
        )
    if fresh:
        rows = [
            {
                "dataset": dataset,
                "number": one.number,
                "born": after.clock,
                "died": 0,
                "blob": one.blob,
                "digest": one.digest,
                "rows": one.rows,
                "stats": dict(one.stats),
            }
            for one in fresh
        ]
        tx.execute(insert(_segment), rows)
    tx.execute(
        insert(_state).values(
            dataset=dataset,
            clock=after.clock,
            digits=after.digits,
            rows=after.rows,
            body=dict(after.body),
            op=after.op,
            author=after.author,
            created_at=now(),
        )
    )


def blobs(tx: Connection) -> set[str]:
    """Every blob that some state of some table needs (garbage collection keeps them)."""
    return set(tx.execute(select(_segment.c.blob)).scalars())


def keep(tx: Connection, found: Sequence[Segment]) -> None:
    """Take down which blob holds which segment, for a version: by the digest of the rows, like all parts."""
    part = tables.part
    for start in range(0, len(found), 500):
        some = {one.digest: one for one in found[start : start + 500]}
        known = set(tx.execute(select(part.c.digest).where(part.c.digest.in_(list(some)))).scalars())
        rows = [{"digest": d, "blob": one.blob, "rows": one.rows} for d, one in some.items() if d not in known]
        if rows:
            tx.execute(insert(part), rows)


def files(tx: Connection, digests: Sequence[str]) -> dict[str, str]:
    """Digest of a segment -> the blob that holds it."""
    part = tables.part
    done: dict[str, str] = {}
    for start in range(0, len(digests), 500):
        query = select(part.c.digest, part.c.blob).where(part.c.digest.in_(list(digests[start : start + 500])))
        done |= {row.digest: row.blob for row in tx.execute(query)}
    return done
