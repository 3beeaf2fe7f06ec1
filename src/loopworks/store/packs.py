"""Where the rows of frozen versions lie: Parquet files among the blobs, a base and what later versions changed.

A pack holds all rows of some leaves. A version lists its packs, oldest first; of each leaf the newest pack that holds
it is right. So a version costs what it changed, and how the rows lie says nothing about the version's id.
"""

import base64
import contextlib
import functools
import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Blobs
from loopworks.core.errors import Damaged, NotFound
from loopworks.core.values import Shape
from loopworks.store import frozen, shapes
from loopworks.store.blobs import BlobStore
from loopworks.store.frozen import FrozenRow, Line

if TYPE_CHECKING:
    import pyarrow as pa

GROUP = 16_384  # rows in a row group: reading one leaf reads so many
MASK = 16_384
"""A mask of more characters than this is a blob of its own, so that rows stay small."""
_MASK = frozen.SHAPE.index("mask")
OUTSIDE = "sha256:"  # run lengths never hold an s
_MEMORY = 64 << 20


class Packer:
    """Writes one pack, a few leaves at a time, in constant memory; ``finish`` gives its key and number of rows."""

    def __init__(self, blobs: BlobStore, digits: int) -> None:
        """Begin a pack of leaves that are cut by so many digits."""
        import pyarrow.parquet as pq

        self._blobs = blobs
        self._digits = digits
        self._file = tempfile.SpooledTemporaryFile(_MEMORY)  # noqa: SIM115  closed by finish
        # All settings are given, none left to pyarrow's defaults, which change between releases: under one pyarrow the
        # same rows give the same bytes. No Arrow schema inside: it says nothing that Parquet's own types do not.
        self._out: Any = pq.ParquetWriter(
            self._file,
            _schema(),
            version="2.6",
            data_page_version="1.0",
            data_page_size=1 << 20,
            compression="zstd",
            compression_level=3,
            use_dictionary=["leaf", "mime", "split", "uri"],
            write_statistics=["leaf"],
            use_byte_stream_split=False,
            store_schema=False,
            write_page_index=False,
            write_page_checksum=False,
        )
        self._waiting: list[Line] = []
        self._leaves: list[int] = []
        self._masks: set[str] = set()
        self.rows = 0

    def add(self, leaf: int, lines: Sequence[Line]) -> None:
        """Take all rows of a leaf, none where it is empty now; leaves come in their order."""
        self._leaves.append(leaf)
        self._waiting += lines
        self.rows += len(lines)
        if len(self._waiting) >= GROUP:
            self._flush()

    def finish(self) -> str:
        """Make the pack safe among the blobs and give its key."""
        self._flush()
        everything = len(self._leaves) == 16**self._digits
        covered = "all" if everything else base64.b64encode(np.array(self._leaves, "<u4").tobytes()).decode()
        facts = {"digits": str(self._digits), "leaves": covered, "masks": json.dumps(sorted(self._masks))}
        self._out.add_key_value_metadata(facts)
        self._out.close()
        self._file.seek(0)
        key = self._blobs.put(self._file)  # type: ignore[arg-type]
        self._file.close()
        return key

    def _flush(self) -> None:
        import pyarrow as pa

        lines, self._waiting = self._waiting, []
        if not lines:
            return
        types = {field.name: field.type for field in _schema()}
        leaves = [frozen.leaf_of(line[0], self._digits) for line in lines]
        columns: dict[str, Any] = {"leaf": _numbers(leaves, types["leaf"])}
        for at, name in enumerate(frozen.COLUMNS[:-1]):
            columns[name] = _column([line[at] for line in lines], types[name])
        said = [shape for line in lines for shape in line[-1]]
        fields = [_texts([self._outside(s[5]) if at == 5 else s[at] for s in said]) for at in range(8)]
        struct = pa.StructArray.from_arrays(fields, fields=list(_shape()))
        columns["shapes"] = _lists([len(line[-1]) for line in lines], struct).cast(types["shapes"])
        self._out.write_table(pa.table(columns, schema=_schema()), row_group_size=1 << 30)

    def _outside(self, mask: str) -> str:
        if len(mask) <= MASK:
            return mask
        key = self._blobs.put_bytes(mask.encode())
        self._masks.add(key)
        return OUTSIDE + key


# ``pyarrow.array`` and ``to_numpy`` import pandas where that is installed, to ask about Series: more than a second in
# a program that never uses it. So the columns are put together from their buffers.
def _column(values: list[Any], kind: Any) -> Any:
    import pyarrow.types as pt

    if pt.is_list(kind):
        return _lists([len(one) for one in values], _texts([text for one in values for text in one])).cast(kind)
    return _texts(values) if pt.is_string(kind) else _numbers(values, kind)


def _texts(values: Sequence[str]) -> Any:
    import pyarrow as pa

    data = [value.encode() for value in values]
    buffers = [None, pa.py_buffer(_ends([len(one) for one in data])), pa.py_buffer(b"".join(data))]
    return pa.Array.from_buffers(pa.string(), len(data), buffers)


def _numbers(values: Sequence[int], kind: Any) -> Any:
    import pyarrow as pa

    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.array(values, kind.to_pandas_dtype()))])


def _flags(values: NDArray[np.bool_]) -> Any:
    import pyarrow as pa

    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(np.packbits(values, bitorder="little"))])


def _lists(lengths: Sequence[int], inside: Any) -> Any:
    import pyarrow as pa

    ends = pa.Array.from_buffers(pa.int32(), len(lengths) + 1, [None, pa.py_buffer(_ends(lengths))])
    return pa.ListArray.from_arrays(ends, inside)


def _ends(lengths: Sequence[int]) -> NDArray[np.int32]:
    return np.cumsum([0, *lengths], dtype=np.int32)


def read(
    blobs: Blobs,
    packs: Sequence[str],
    digits: int,
    *,
    split: str | None = None,
    leaves: NDArray[np.int64] | None = None,
) -> Iterator["pa.Table"]:
    """Rows of a version in the order of their ids, as Arrow tables.

    Args:
        blobs: where the packs lie.
        packs: their keys, oldest first.
        digits: of the version.
        split: only its rows.
        leaves: only rows of these leaves, by number, in order.
    Raises: Damaged: a pack is gone, or its bytes are not what was written.
    """
    import pyarrow as pa

    covered = np.zeros(16**digits, bool)
    found = []
    asked = np.full(16**digits, leaves is None)
    if leaves is not None:
        asked[leaves] = True
    for key in reversed(packs):
        with _opened(blobs, key, digits) as (file, has):
            groups = _groups(file, has & asked & ~covered, split)
            if len(packs) == 1:
                yield from groups
                return
            found += list(groups)
            covered |= has
    if found:
        table = pa.concat_tables(found).sort_by("item_id")
        for at in range(0, table.num_rows, GROUP):
            yield table.slice(at, GROUP)


def rows(blobs: Blobs, table: "pa.Table") -> Iterator[FrozenRow]:
    """The rows of a table that ``read`` gave."""
    table = table.combine_chunks()
    lists = [table[name].combine_chunks() for name in ("shapes", "tags")]
    # Column by column: a row as a nested dictionary takes several times as long.
    inside = lists[0].flatten()
    said = zip(*(inside.field(name).to_pylist() for name in frozen.SHAPE), strict=True)
    shapes_of, tags_of = iter([_whole(blobs, fields) for fields in said]), iter(lists[1].flatten().to_pylist())
    counts = [np.diff(np.from_dlpack(one.offsets)).tolist() for one in lists]
    names = [name for name in frozen.COLUMNS if name not in ("shapes", "tags")]
    for values, shapes_here, tags_here in zip(
        zip(*(table[name].to_pylist() for name in names), strict=True), *counts, strict=True
    ):
        yield FrozenRow(
            **dict(zip(names, values, strict=True)),
            shapes=tuple(islice(shapes_of, shapes_here)),
            tags=tuple(islice(tags_of, tags_here)),
        )


def masks(blobs: Blobs, key: str) -> list[str]:
    """Keys of the masks that a pack keeps as blobs of their own."""
    import pyarrow.parquet as pq

    with blobs.open(key) as file:
        return list(json.loads(pq.ParquetFile(file).metadata.metadata[b"masks"]))


def _whole(blobs: Blobs, fields: tuple[str, ...]) -> Shape:
    """A shape from its fields in the order of ``frozen.SHAPE``."""
    if fields[_MASK].startswith(OUTSIDE):
        whole = blobs.read(fields[_MASK].removeprefix(OUTSIDE)).decode()
        fields = (*fields[:_MASK], whole, *fields[_MASK + 1 :])
    return shapes.of(*fields)


def _groups(file: Any, wanted: NDArray[np.bool_], split: str | None) -> Iterator["pa.Table"]:
    import pyarrow.compute as pc

    everything = bool(wanted.all())
    numbers = np.flatnonzero(wanted)
    for at in range(file.metadata.num_row_groups):
        facts = file.metadata.row_group(at).column(0).statistics
        if not everything and np.searchsorted(numbers, facts.min) == np.searchsorted(numbers, facts.max, "right"):
            continue
        table = file.read_row_group(at, use_threads=False)
        if not everything:
            table = table.filter(_flags(wanted[np.from_dlpack(table["leaf"].combine_chunks())]))
        if split is not None:
            table = table.filter(pc.equal(table["split"], split))
        if table.num_rows:
            yield table


@contextlib.contextmanager
def _opened(blobs: Blobs, key: str, digits: int) -> Iterator[tuple[Any, NDArray[np.bool_]]]:
    """A pack, and which leaves it holds."""
    import pyarrow.parquet as pq

    try:
        source: BinaryIO = blobs.open(key)
    except NotFound:
        raise Damaged(f"pack {key[:12]} of a version must be there; got nothing", "restore a backup") from None
    with source:
        if (actual := hashlib.file_digest(source, "sha256").hexdigest()) != key:  # type: ignore[arg-type]
            raise Damaged(f"pack of a version must have SHA-256 {key}; got {actual}", "restore a backup")
        source.seek(0)
        with pq.ParquetFile(source) as file:
            facts = file.metadata.metadata
            if int(facts[b"digits"]) != digits:
                raise Damaged(f"pack {key[:12]} must be cut by {digits} digits; got {facts[b'digits'].decode()}")
            has = np.ones(16**digits, bool)
            if facts[b"leaves"] != b"all":
                has[:] = False
                has[np.frombuffer(base64.b64decode(facts[b"leaves"]), "<u4")] = True
            yield file, has


@functools.cache
def _shape() -> Any:
    import pyarrow as pa

    return [pa.field(name, pa.string(), nullable=False) for name in frozen.SHAPE]


@functools.cache
def _schema() -> Any:
    import pyarrow as pa

    kinds: dict[str, Any] = {
        "width": pa.int32(),
        "height": pa.int32(),
        "size_bytes": pa.int64(),
        "tags": pa.list_(pa.field("element", pa.string(), nullable=False)),
        "shapes": pa.list_(pa.field("element", pa.struct(_shape()), nullable=False)),
    }
    names: Iterable[str] = frozen.COLUMNS
    return pa.schema([
        pa.field("leaf", pa.int32(), nullable=False),
        *(pa.field(name, kinds.get(name, pa.string()), nullable=False) for name in names),
    ])
