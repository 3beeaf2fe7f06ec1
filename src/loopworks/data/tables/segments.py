"""Rows on disk: Parquet segments, cut by the first digits of the row's key and sorted by it, so that memory is bounded
by one segment and equal content has equal segments.

Cells are kept as text exactly as written; ``schema.py`` reads them. Beside them stand ``_key`` (who the row is),
``_hash`` (its content, where that is not the key), ``_order`` (its place in the order of import) and ``_split``.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from loopworks.core.contracts import Blobs
from loopworks.core.errors import Damaged, NotFound
from loopworks.data.tables import census, keys
from loopworks.data.tables.census import Census
from loopworks.data.tables.keys import Keys
from loopworks.store.segments import Segment

if TYPE_CHECKING:
    import pyarrow as pa

TARGET = 65_536
"""Rows that a segment should have at most, on average."""
OWN = ("_key", "_hash", "_order", "_split")
"""Columns that are ours; those of the user begin with a colon inside the files, so that no name clashes."""
_SPLITS = {"": 0, "train": 1, "val": 2, "test": 3}


def digits_for(rows: int) -> int:
    """Hex digits of the key that say the segment: 0 (one segment) to 4 (65,536 segments)."""
    digits = 0
    while digits < 4 and rows > TARGET * 16**digits:
        digits += 1
    return digits


def cells(table: "pa.Table") -> "pa.Table":
    """The user's columns alone, under their own names."""
    names = [name for name in table.column_names if name.startswith(":")]
    return table.select(names).rename_columns([name[1:] for name in names])


def join(own: "dict[str, pa.Array]", user: "pa.Table") -> "pa.Table":
    """A segment's table from our columns and the user's."""
    import pyarrow as pa

    columns: dict[str, Any] = {name: own[name] for name in OWN}
    for name in user.column_names:
        columns[":" + name] = user.column(name)
    return pa.table(columns)


def aligned(tables: "Sequence[pa.Table]", names: Sequence[str]) -> "pa.Table":
    """The tables one under the other, with these user's columns; what a table does not have is null."""
    import pyarrow as pa

    done = []
    for table in tables:
        columns = {name: table.column(name) for name in OWN if name in table.column_names}
        for name in names:
            has = ":" + name in table.column_names
            columns[":" + name] = table.column(":" + name) if has else pa.nulls(table.num_rows, pa.string())
        done.append(pa.table(columns))
    return pa.concat_tables(done).combine_chunks()


def by_key(table: "pa.Table") -> "pa.Table":
    """The table in order of its keys."""
    order = keys.sort_order(key_column(table))
    return table.take(order)


def key_column(table: "pa.Table") -> Keys:
    """The keys of the rows."""
    return keys.as_keys(table.column("_key").combine_chunks())


def content_column(table: "pa.Table") -> Keys:
    """The hash of each row's content."""
    import pyarrow.compute as pc

    return keys.as_keys(pc.coalesce(table.column("_hash").combine_chunks(), table.column("_key").combine_chunks()))


def slim(table: "pa.Table") -> "pa.Table":
    """The table with ``_hash`` only where it is not the key, which is a third of the disk for long tables."""
    import pyarrow as pa
    import pyarrow.compute as pc

    key, content = (table.column(name).combine_chunks() for name in ("_key", "_hash"))
    content = pc.if_else(pc.fill_null(pc.equal(key, content), False), pa.scalar(None, pa.binary(keys.SIZE)), content)
    return table.set_column(table.column_names.index("_hash"), "_hash", content)


def digest(table: "pa.Table") -> str:
    """SHA-256 over key, content and split of each row in order: what the version's id is made of, in hex."""
    import pyarrow as pa
    import pyarrow.compute as pc

    splits = pc.index_in(table.column("_split").combine_chunks(), value_set=pa.array(list(_SPLITS)))
    lines = np.empty(table.num_rows, np.dtype([("key", "V16"), ("hash", "V16"), ("split", "u1")]))
    lines["key"], lines["hash"] = key_column(table), content_column(table)
    lines["split"] = splits.to_numpy(zero_copy_only=False).astype(np.uint8)
    return hashlib.sha256(lines.tobytes()).hexdigest()


def count(table: "pa.Table") -> dict[str, Census]:
    """The census of each of the user's columns."""
    order = table.column("_order").combine_chunks()
    user = cells(table)
    return {name: census.count(user.column(name).combine_chunks(), order) for name in user.column_names}


def encode(table: "pa.Table") -> bytes:
    """The rows as a Parquet file.

    All settings are given, none left to pyarrow's defaults: the same rows must give the same bytes under one pyarrow.
    Statistics cost a third of the writing and are of no use to hashed rows, so only the cells of ours have them.
    """
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(
        table,
        out,
        version="2.6",
        data_page_version="1.0",
        data_page_size=1 << 20,
        row_group_size=1 << 30,
        compression="zstd",
        compression_level=1,
        use_dictionary=[name for name in table.column_names if name not in ("_key", "_hash", "_order")],
        write_statistics=["_order"],
        store_schema=False,
        write_page_index=False,
        write_page_checksum=False,
    )
    return out.getvalue()


def load(blobs: Blobs, segment: Segment, columns: Sequence[str] | None = None, own: Sequence[str] = OWN) -> "pa.Table":
    """A segment's rows; of the columns of the user only ``columns``, those it does not have as nulls; of ours ``own``.

    Raises: Damaged: it is missing, or not what was written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = f"segment {segment.number} of a table"
    try:
        data = blobs.read(segment.blob)
    except NotFound:
        raise Damaged(f"{where} must be there; got nothing", "restore a backup") from None
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        has = [name[1:] for name in file.schema_arrow.names if name.startswith(":")]
        wanted = None if columns is None else [*own, *(":" + name for name in columns if name in has)]
        table = file.read(columns=wanted, use_threads=False)
    except pa.ArrowException as error:
        raise Damaged(f"{where} must be a sound Parquet file; got: {error}", "restore a backup") from None
    if table.num_rows != segment.rows:
        raise Damaged(f"{where} must have {segment.rows} rows; got {table.num_rows}", "restore a backup")
    for name in {"_key", "_hash"} & set(table.column_names):
        at = table.column_names.index(name)
        table = table.set_column(at, name, table.column(name).cast(pa.binary(keys.SIZE)))
    return table if columns is None else aligned([table], columns)


def scan(blobs: Blobs, segments: Iterable[Segment], columns: Sequence[str] | None = None) -> "Iterator[pa.Table]":
    """The segments' rows, one segment in memory at a time."""
    for segment in segments:
        yield load(blobs, segment, columns)
