"""Reading versions of format 1, which earlier releases froze: sixteen or 256 Parquet parts, named by their rows."""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.engine import Connection

from loopworks.core.contracts import Blobs
from loopworks.core.errors import Damaged, NotFound
from loopworks.core.values import Shape
from loopworks.store import tables
from loopworks.store.frozen import FrozenRow, Manifest, Part

if TYPE_CHECKING:
    import pyarrow as pa


def read(tx: Connection, blobs: Blobs, manifest: Manifest, split: str | None) -> Iterator["pa.Table"]:
    """The parts as Arrow tables, in order of item id, of one split or of all."""
    for part in manifest.parts:
        table = _load(tx, blobs, part)
        if split is not None:
            import pyarrow.compute as pc

            table = table.filter(pc.equal(table["split"], split))
        if table.num_rows:
            yield table


def rows(table: "pa.Table") -> Iterator[FrozenRow]:
    """The rows of such a table."""
    for row in table.to_pylist():
        labels = row.pop("labels")
        yield FrozenRow(**row, shapes=tuple(Shape(**shape) for shape in labels))


def part_rows(tx: Connection, blobs: Blobs, manifest: Manifest, item: str) -> Iterator[FrozenRow]:
    """The items of the part that holds ``item``."""
    for part in manifest.parts:
        if item.startswith(part.prefix):
            yield from rows(_load(tx, blobs, part))


def part_of(row: FrozenRow) -> tuple[object, ...]:
    """What a row of format 1 says, so that rows of both formats can be compared."""
    return row.name, row.blob, row.uri, row.split, tuple((s.label, s.source, s.author) for s in row.shapes)


def keys(tx: Connection, manifest: Manifest) -> set[str]:
    """Blobs of its parts."""
    digests = [part.digest for part in manifest.parts]
    return set(tx.execute(select(tables.part.c.blob).where(tables.part.c.digest.in_(digests))).scalars())


def _load(tx: Connection, blobs: Blobs, part: Part) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    key = tx.execute(select(tables.part.c.blob).where(tables.part.c.digest == part.digest)).scalar()
    try:
        if key is None:
            raise NotFound("part", part.digest)
        data = blobs.read(key)
    except NotFound:
        raise Damaged(f"part {part.prefix} of a version must be there; got nothing", "restore a backup") from None
    if (actual := hashlib.sha256(data).hexdigest()) != key:
        raise Damaged(f"part {part.prefix} of a version must have SHA-256 {key}; got {actual}", "restore a backup")
    table = pq.read_table(pa.BufferReader(data), use_threads=False)
    if table.num_rows != part.rows:
        raise Damaged(f"part {part.prefix} of a version must have {part.rows} rows; got {table.num_rows}")
    return table
