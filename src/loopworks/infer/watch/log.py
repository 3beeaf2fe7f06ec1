"""The log of predictions: light rows in Parquet, a million of which take some 60 MB, joined to the truth when it comes.

A part of the log is a blob; a catalog row says which. Small parts are put together, so that a quiet deployment leaves
no thousands of them. Nothing of the inputs themselves is in it, only ids.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from loopworks.core.errors import NotFound
from loopworks.store import watching
from loopworks.store.home import Home

if TYPE_CHECKING:
    import pyarrow as pa

SMALL = 100_000
"""Rows of a part below which it is put together with others."""
TOGETHER = 16
TRIES = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """One prediction."""

    item: str
    revision: int
    key: str
    answer: str
    score: float
    at: datetime


def schema() -> "pa.Schema":
    """Columns of a part."""
    import pyarrow as pa

    return pa.schema([
        ("item", pa.binary(32)),
        ("revision", pa.int32()),
        ("key", pa.string()),
        ("answer", pa.dictionary(pa.int32(), pa.string())),
        ("score", pa.float32()),
        ("at", pa.timestamp("us", tz="UTC")),
    ])


def table(entries: Sequence[Entry]) -> "pa.Table":
    """Entries as columns."""
    import pyarrow as pa

    columns: Mapping[str, Sequence[Any]] = {
        "item": [bytes.fromhex(one.item) for one in entries],
        **{name: [getattr(one, name) for one in entries] for name in ("revision", "key", "answer", "score", "at")},
    }
    return pa.table({name: pa.array(columns[name], schema().field(name).type) for name in schema().names})


class Log:
    """The log of one deployment."""

    def __init__(self, home: Home, deployment: str) -> None:
        """Read and write where the workspace keeps its blobs."""
        self._home, self._deployment = home, deployment

    def add(self, entries: Sequence[Entry]) -> None:
        """Write a part; puts small parts together now and then.

        Raises: NoSpace, Busy: nothing was written.
        """
        if entries:
            self.add_table(table(entries))

    def add_table(self, rows: "pa.Table") -> None:
        """Write a part from columns (``schema``)."""
        blob = self._home.blobs.put_bytes(_packed(rows))
        since, until = _span(rows)
        with self._home.catalog.begin() as tx:
            watching.add_log(tx, self._deployment, blob=blob, rows=rows.num_rows, since=since, until=until)
            parts = watching.log_parts(tx, self._deployment)
        small = [part for part in parts if part["rows"] < SMALL]
        if len(small) >= TOGETHER:
            self._put_together(small)

    def read(self, *, since: datetime | None = None, columns: Sequence[str] | None = None) -> "pa.Table":
        """All rows (or those of parts that end after ``since``), the oldest part first."""
        import pyarrow as pa

        for left in reversed(range(TRIES)):
            with self._home.catalog.read() as tx:
                found = watching.log_parts(tx, self._deployment, since=since)
            try:
                parts = [_unpacked(self._home.blobs.read(part["blob"]), columns) for part in found]
                break
            except NotFound:  # another process put this part together with others meanwhile
                if not left:
                    raise
        if parts:
            return pa.concat_tables(parts).unify_dictionaries()
        return _wanted(columns).empty_table()

    def rows(self) -> int:
        """How many predictions there are."""
        with self._home.catalog.read() as tx:
            return sum(part["rows"] for part in watching.log_parts(tx, self._deployment))

    def drop(self, before: datetime) -> int:
        """Forget parts that end before then; gives the number of predictions."""
        with self._home.catalog.begin() as tx:
            old = [part for part in watching.log_parts(tx, self._deployment) if part["until"] < before]
            watching.drop_log(tx, [part["id"] for part in old])
        self._remove(part["blob"] for part in old)
        return sum(part["rows"] for part in old)

    def forget(self, items: Iterable[str]) -> int:
        """Take predictions of items out, whatever their revision; gives how many there were."""
        import pyarrow as pa
        import pyarrow.compute as pc

        gone = pa.array([bytes.fromhex(item) for item in items], pa.binary(32))
        with self._home.catalog.read() as tx:
            found = watching.log_parts(tx, self._deployment)
        count = 0
        for part in found:
            rows = _unpacked(self._home.blobs.read(part["blob"]), None)
            kept = rows.filter(pc.invert(pc.is_in(rows.column("item"), value_set=gone)))
            if kept.num_rows < rows.num_rows:
                count += rows.num_rows - kept.num_rows
                self._replace([part], kept)
        return count

    def _put_together(self, parts: Sequence[Mapping[str, Any]]) -> None:
        import pyarrow as pa

        try:
            rows = pa.concat_tables([_unpacked(self._home.blobs.read(part["blob"]), None) for part in parts])
        except NotFound:
            return  # another process has just done it
        self._replace(parts, rows.unify_dictionaries())

    def _replace(self, parts: Sequence[Mapping[str, Any]], rows: "pa.Table") -> None:
        blob = self._home.blobs.put_bytes(_packed(rows)) if rows.num_rows else ""
        with self._home.catalog.begin() as tx:
            there = {part["id"] for part in watching.log_parts(tx, self._deployment)}
            if not all(part["id"] in there for part in parts):
                return  # another process was first; what we wrote is garbage
            watching.drop_log(tx, [part["id"] for part in parts])
            if blob:
                since, until = _span(rows)
                watching.add_log(tx, self._deployment, blob=blob, rows=rows.num_rows, since=since, until=until)
        self._remove(part["blob"] for part in parts if part["blob"] != blob)

    def _remove(self, blobs: Iterable[str]) -> None:
        """Blobs that no row names any more go at once: garbage collection would keep them for a day."""
        with self._home.catalog.read() as tx:
            live = {part["blob"] for part in watching.log_parts(tx, self._deployment)}
        for blob in blobs:
            if blob not in live:
                self._home.blobs.delete(blob)


def latest(rows: "pa.Table") -> dict[str, tuple[str, float]]:
    """Item -> its newest answer and confidence."""
    items = rows.column("item").to_pylist()
    told = zip(items, rows.column("answer").to_pylist(), rows.column("score").to_pylist(), strict=True)
    return {item.hex(): (answer, score) for item, answer, score in told}


def days_ago(days: float) -> datetime:
    """The moment so many days ago."""
    return datetime.now(UTC) - timedelta(days=days)


def _span(rows: "pa.Table") -> tuple[datetime, datetime]:
    import pyarrow.compute as pc

    found = pc.min_max(rows.column("at")).as_py()
    return found["min"].astimezone(UTC), found["max"].astimezone(UTC)


def _packed(rows: "pa.Table") -> bytes:
    import pyarrow.parquet as pq

    kept = io.BytesIO()
    pq.write_table(rows, kept, compression="zstd", use_dictionary=["answer", "key"])
    return kept.getvalue()


def _unpacked(data: bytes, columns: Sequence[str] | None) -> "pa.Table":
    import pyarrow.parquet as pq

    wanted = _wanted(columns)
    return pq.read_table(io.BytesIO(data), columns=wanted.names).cast(wanted)


def _wanted(columns: Sequence[str] | None) -> "pa.Schema":
    import pyarrow as pa

    return schema() if columns is None else pa.schema([schema().field(name) for name in columns])
