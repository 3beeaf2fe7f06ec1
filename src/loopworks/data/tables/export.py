"""Rows out again, in the order of import: text as it was written; Parquet with types."""

import csv
import io
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from loopworks.core.errors import Conflict, Invalid, NotFound
from loopworks.data.tables import segments
from loopworks.data.tables.pages import plain, typed_part
from loopworks.store import versions
from loopworks.store.blobs import write_error
from loopworks.store.segments import Segment

if TYPE_CHECKING:
    import pyarrow as pa

    from loopworks.data.tables.table import Schema, Table

ROWS = 262_144
"""Rows that are put in order at once."""


def export(table: "Table", path: Path, *, version: str, split: str | None) -> int:
    """Write the rows as CSV, TSV, JSON lines or Parquet, by the name.

    CSV and TSV have the cells exactly as they came, quoted where they must be; with one source file of that form and
    no row left out they are that file, byte for byte. JSON lines and Parquet have typed values.

    Args:
        table: the table.
        path: new file; its ending says the format.
        version: id of a version or its beginning; empty: the rows of now.
        split: only train, val or test.
    Raises:
        Invalid: an ending that is none of these.
        Conflict: the file is there already.
        NotFound: no such version or split.
        NoSpace, Denied: it cannot be written.
    """
    from loopworks.data.tables.table import schema_of
    from loopworks.data.tables.version import TableVersion

    if split is not None and split not in ("train", "val", "test"):
        raise NotFound("split", split, ("train", "val", "test"))
    write = {".csv": _csv, ".tsv": _tsv, ".jsonl": _jsonl, ".ndjson": _jsonl, ".parquet": _parquet}.get(
        path.suffix.lower()
    )
    if write is None:
        raise Invalid(str(path), "a name that ends in .csv, .tsv, .jsonl or .parquet", path.suffix or "none")
    if path.exists():
        raise Conflict(f"{path} must be a new file; got one that is there", "choose another name")
    live = table.live()
    found: Sequence[Segment] = live.segments
    told, dialect = schema_of(live.state), dict(live.state.body.get("dialect", {}))
    names = live.names
    if version:
        with table.home.catalog.read() as tx:
            row = versions.get(tx, version, table.dataset)
        frozen = TableVersion(table.home, table.name, row)
        found, told = frozen.manifest.parts, frozen.columns
        known = {column.name for column in told.columns}
        names = [name for name in live.names if name in known] + sorted(known - set(live.names))
    count = 0

    def parts() -> "Iterator[pa.Table]":
        nonlocal count
        for part in _ordered(table, found, names, split):
            count += part.num_rows
            yield part

    try:
        write(path, parts(), told, names, dialect)
    except OSError as error:
        raise write_error(path.parent, error) from None
    return count


def _ordered(table: "Table", found: Sequence[Segment], names: Sequence[str], split: str | None) -> "Iterator[pa.Table]":
    """The rows by import number; of a long table a piece of the numbers at a time, for each of which the numbers of
    all rows are looked at and only the segments' rows in it are kept."""
    import pyarrow as pa
    import pyarrow.compute as pc

    total = sum(segment.rows for segment in found)
    blobs = table.home.blobs
    numbers = np.concatenate(
        [part.column("_order").to_numpy() for part in segments.scan(blobs, found, [])] or [np.zeros(0, np.int64)]
    )
    if not total:
        return
    pieces = -(-total // ROWS)
    spill: Any = None
    if pieces > 1:
        marks = np.partition(numbers, [total * at // pieces for at in range(1, pieces)])
        limits = np.array([marks[total * at // pieces] for at in range(1, pieces)])
        spill = _Spill(table, limits)
    del numbers
    whole = []
    try:
        for part in segments.scan(blobs, found, names):
            rows = part if split is None else part.filter(pc.equal(part.column("_split"), split))
            if spill is None:
                whole.append(rows)
            else:
                spill.add(rows)
        groups = iter([whole]) if spill is None else spill.groups()
        for tables in groups:
            if tables:
                joined = pa.concat_tables(tables).combine_chunks()
                yield joined.take(pc.sort_indices(joined, sort_keys=[("_order", "ascending")]))
    finally:
        if spill is not None:
            spill.close()


class _Spill:
    """Rows on disk by pieces of the import numbers."""

    def __init__(self, table: "Table", limits: Any) -> None:
        from loopworks.data.tables.spool import Spool

        self._limits = limits
        self._spool = Spool(table.home.cache / "imports" / f"out-{secrets.token_hex(8)}", 0)

    def add(self, rows: "pa.Table") -> None:
        places = np.searchsorted(self._limits, rows.column("_order").to_numpy(), side="right")
        for place in np.unique(places).tolist():
            self._spool.put(place, rows.filter(places == place))
        if self._spool.is_full:
            self._spool.flush()

    def groups(self) -> "Iterator[list[pa.Table]]":
        for place in range(len(self._limits) + 1):
            yield list(self._spool.read(place))

    def close(self) -> None:
        self._spool.close(is_done=True)


Parts = Iterator["pa.Table"]


def _csv(path: Path, parts: Parts, told: "Schema", names: Sequence[str], dialect: dict[str, Any]) -> None:
    _delimited(path, parts, names, {**dialect, "delimiter": dialect.get("delimiter") or ","})


def _tsv(path: Path, parts: Parts, told: "Schema", names: Sequence[str], dialect: dict[str, Any]) -> None:
    _delimited(path, parts, names, {**dialect, "delimiter": "\t"})


def _delimited(path: Path, parts: Parts, names: Sequence[str], dialect: dict[str, Any]) -> None:
    encoding = dialect.get("encoding") or "utf-8"
    with _placed(path) as file:
        if dialect.get("bom"):
            file.write("\ufeff".encode(encoding))
        text = io.TextIOWrapper(file, encoding=encoding, newline="", write_through=False)
        out = csv.writer(
            text,
            delimiter=dialect["delimiter"],
            quotechar=dialect.get("quote") or '"',
            lineterminator=dialect.get("line_end") or "\n",
            quoting=csv.QUOTE_MINIMAL,
        )
        if dialect.get("has_header", True):
            out.writerow(names)
        for part in parts:
            columns = [part.column(":" + name).to_pylist() for name in names]
            out.writerows(zip(*columns, strict=True))
        text.flush()
        text.detach()


def _jsonl(path: Path, parts: Parts, told: "Schema", names: Sequence[str], dialect: dict[str, Any]) -> None:
    with _placed(path) as file:
        for part in parts:
            rows = typed_part(part, told, names, "")
            columns = [[plain(value) for value in rows.column(name).to_pylist()] for name in names]
            for row in zip(*columns, strict=True):
                body = dict(zip(names, row, strict=True))
                file.write(json.dumps(body, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def _parquet(path: Path, parts: Parts, told: "Schema", names: Sequence[str], dialect: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _placed(path) as file:
        writer: Any = None
        for part in parts:
            rows = typed_part(part, told, names, "").select(list(names))
            if writer is None:
                writer = pq.ParquetWriter(file, rows.schema, compression="zstd")
            writer.write_table(rows)
        if writer is None:
            writer = pq.ParquetWriter(file, pa.schema([(name, pa.string()) for name in names]))
        writer.close()


@contextmanager
def _placed(path: Path) -> Iterator[IO[bytes]]:
    """A file that is there when it is whole, and not before."""
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temp.open("xb") as file:
            yield file
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)
