"""Who a row is: the hash of its content, told apart from equal rows by their number; the same on every machine.

The content is each column's name with the cell as written, in order of the names, empty cells left out. So the order of
columns and rows does not matter, nor does a column that another file added later.
"""

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

SIZE = 16
"""Bytes of a key; shown as 32 hex digits."""
Keys = NDArray[np.void]


def contents(cells: "pa.Table") -> Keys:
    """The first 16 bytes of the SHA-256 of each row's content, shape ``(rows,)``.

    Args:
        cells: text columns, one chunk each.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not cells.num_rows:
        return np.zeros(0, f"V{SIZE}")
    named = []
    for name in sorted(cells.column_names):
        column = _escaped(cells.column(name).combine_chunks())
        cell = pc.binary_join_element_wise(pa.scalar(_escape(name), pa.string()), column, "\x1f")
        is_empty = pc.fill_null(pc.equal(column, ""), True)
        # Most columns have no empty cell, and need no second pass.
        named.append(pc.if_else(is_empty, pa.scalar(None, pa.string()), cell) if pc.any(is_empty).as_py() else cell)
    lines = pc.binary_join_element_wise(
        *(pc.cast(c, pa.large_string()) for c in named), pa.scalar("\x1e", pa.large_string()), null_handling="skip"
    )
    return hashes(lines)


def hashes(texts: "pa.Array") -> Keys:
    """The first 16 bytes of the SHA-256 of each text, shape ``(rows,)``."""
    import pyarrow as pa

    texts = texts.cast(pa.large_binary())
    if not len(texts):
        return np.zeros(0, f"V{SIZE}")
    _, offsets, data = texts.buffers()
    marks = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    base = int(marks[0])
    raw = data.slice(base, int(marks[-1]) - base).to_pybytes() if data is not None else b""
    ends = (marks - base).tolist()
    sha = hashlib.sha256
    joined = b"".join([sha(raw[a:b]).digest()[:SIZE] for a, b in zip(ends, ends[1:], strict=False)])
    return np.frombuffer(joined, f"V{SIZE}")


def again(content: bytes, number: int) -> bytes:
    """The key of the ``number``-th row with this content, counted from 0: the first one's is the content's hash."""
    return content if number == 0 else hashlib.sha256(content + number.to_bytes(8, "big")).digest()[:SIZE]


def as_arrow(keys: Keys) -> "pa.Array":
    """Keys as Arrow's fixed-size bytes."""
    import pyarrow as pa

    data = pa.py_buffer(np.ascontiguousarray(keys).tobytes())
    return pa.Array.from_buffers(pa.binary(SIZE), len(keys), [None, data])


def as_keys(column: "pa.Array") -> Keys:
    """Arrow's fixed-size bytes as keys; none may be null."""
    raw = column.buffers()[1].slice(column.offset * SIZE, len(column) * SIZE).to_pybytes()
    return np.frombuffer(raw, f"V{SIZE}")


def numbers(keys: Keys) -> NDArray[np.uint64]:
    """The first and the second eight bytes of each key, as numbers that sort like the bytes, shape ``(rows, 2)``."""
    found: NDArray[np.uint64] = np.frombuffer(keys.tobytes(), ">u8").reshape(-1, 2).astype(np.uint64)
    return found


def sort_order(keys: Keys) -> NDArray[np.int64]:
    """The places of the keys in ascending order; equal ones keep theirs."""
    pairs = numbers(keys)
    return np.lexsort((pairs[:, 1], pairs[:, 0]))


def partitions(keys: Keys, digits: int) -> NDArray[np.int64]:
    """The partition of each key: its first ``digits`` hex digits as a number."""
    if digits == 0:
        return np.zeros(len(keys), np.int64)
    head = numbers(keys)[:, 0] >> np.uint64(64 - 4 * digits)
    return head.astype(np.int64)


def draws(keys: Keys, seed: int, salt: str = "") -> NDArray[np.uint64]:
    """A number for each key as good as drawn at random, always the same one for seed and salt.

    Source: the finalizer of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
    """
    word = int.from_bytes(hashlib.sha256(f"{seed}:{salt}".encode()).digest()[:8], "big")
    pairs = numbers(keys)
    mixed: NDArray[np.uint64] = pairs[:, 0] ^ (pairs[:, 1] + np.uint64(word))
    return mix(mixed)


def mix(found: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread the bits of each number over all of it."""
    with np.errstate(over="ignore"):
        found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: NDArray[np.uint64] = found ^ (found >> np.uint64(31))
    return mixed


def _escape(text: str) -> str:
    return text.replace("\x1b", "\x1b0").replace("\x1e", "\x1b1").replace("\x1f", "\x1b2")


def _escaped(column: Any) -> Any:
    """The two marks between names and cells, taken out of the cells, so that no two rows have one content by trick."""
    import pyarrow.compute as pc

    data = column.buffers()[2]
    raw = data.to_pybytes() if data is not None else b""
    if not any(mark in raw for mark in (b"\x1b", b"\x1e", b"\x1f")):
        return column
    for mark, written in (("\x1b", "\x1b0"), ("\x1e", "\x1b1"), ("\x1f", "\x1b2")):
        column = pc.replace_substring(column, mark, written)
    return column
