"""Which items have a word: for each word the positions of its items, in files that are mapped.

They lie in blocks of bounded size, each with its own words by code point, so that a million long texts need no more
memory than a block while they are filed.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.store import arrays
from loopworks.store.arrays import Bits
from loopworks.store.ids import new_id

BLOCK = 4_000_000
"""Words of items, each item's counted, that a block has at most (but for those of one batch)."""


@dataclass(frozen=True, slots=True)
class Block:
    """The words of some items."""

    texts: Any
    """The different words by code point, as an Arrow array."""
    starts: NDArray[np.int64]
    """Where the items of each word begin in ``rows``; one more for the end."""
    rows: NDArray[np.int32]
    """Positions of items."""

    def having(self, word: str) -> NDArray[np.int32]:
        """Positions of the items that have the word."""
        at = arrays.place(self.texts, word)
        if at == len(self.texts) or self.texts[at].as_py() != word:
            return self.rows[:0]
        return self.rows[self.starts[at] : self.starts[at + 1]]

    def moved(self, to: NDArray[np.intp], stays: Bits) -> "Block":
        """The same where item ``i`` lies at ``to[i]``, without those that do not stay."""
        keep = stays[self.rows]
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(keep, dtype=np.int64)])
        return Block(self.texts, before[self.starts], to[self.rows[keep]].astype(np.int32))


Postings = list[Block]


def having(postings: Postings, words: Sequence[str], size: int) -> Bits:
    """For each of ``size`` items whether it has all of the words."""
    hits: Bits = np.ones(size, np.bool_)
    for word in words:
        found = np.zeros(size, np.bool_)
        for block in postings:
            found[block.having(word)] = True
        hits &= found
    return hits


def blocks(batches: Iterable[tuple[NDArray[np.int32], Sequence[str]]]) -> Iterator[Block]:
    """Blocks from batches: positions of items, and the words of each with blanks between them."""
    import pyarrow.compute as pc

    pieces: list[Any] = []
    rows: list[NDArray[np.int32]] = []
    for places, texts in batches:
        listed = pc.split_pattern(arrays.texts(texts), " ")
        rows.append(np.repeat(places, np.asarray(pc.list_value_length(listed).to_numpy(zero_copy_only=False))))
        pieces.append(listed.flatten())
        if sum(map(len, rows)) >= BLOCK:
            yield _block(pieces, rows)
            pieces, rows = [], []
    if rows:
        yield _block(pieces, rows)


def renewed(old: Postings, to: NDArray[np.intp], stays: Bits, new: Iterable[Block]) -> Iterator[Block]:
    """What stays of the old blocks and all of the new ones; small neighbours become one."""
    last: Block | None = None
    for block in [*(block.moved(to, stays) for block in old), *new]:
        if last is not None and len(last.rows) + len(block.rows) <= BLOCK:
            last = _joined(last, block)
            continue
        if last is not None:
            yield last
        last = block
    if last is not None:
        yield last


def keep(found: Iterable[Block], folder: Path) -> tuple[Postings, OSError | None]:
    """Write blocks as one new folder, each as it comes, and map them; with why the disk could not be written.

    Blocks that could not be written are in memory.
    """
    fresh, failed = folder.with_name(f"{folder.name}.{new_id()}"), None
    done: Postings = []
    try:
        for number, block in enumerate(found):
            place = fresh / str(number)
            try:
                place.mkdir(parents=True)
                np.save(place / "starts.npy", block.starts)
                np.save(place / "rows.npy", block.rows)
                arrays.save_texts(block.texts, place / "texts")
                done.append(_mapped(place))
            except OSError as error:
                failed = error
                done.append(block)
        if failed is None:
            fresh.mkdir(parents=True, exist_ok=True)  # where there are no blocks at all
            fresh.rename(folder)
    except OSError as error:
        failed = error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return done, failed


def load(folder: Path) -> Postings | None:
    """The blocks in a folder, mapped; ``None`` where it is not there, or broken."""
    if not folder.is_dir():
        return None
    try:
        return [_mapped(path) for path in sorted(folder.iterdir(), key=lambda path: int(path.name))]
    except (OSError, ValueError):  # Arrow's errors are ValueErrors too
        return None


def _mapped(place: Path) -> Block:
    starts, rows = (np.asarray(np.load(place / f"{part}.npy", mmap_mode="r")) for part in ("starts", "rows"))
    return Block(arrays.load_texts(place / "texts"), starts, rows)


def _block(pieces: Sequence[Any], rows: Sequence[NDArray[np.int32]]) -> Block:
    found = arrays.coded(pieces, np.concatenate(rows))
    assert found.rows is not None
    assert found.codes is not None
    return _sorted(found.texts, found.codes, found.rows)


def _joined(one: Block, two: Block) -> Block:
    both = arrays.coded([one.texts, two.texts]).codes
    texts = arrays.coded([one.texts, two.texts]).texts
    assert both is not None
    codes = np.repeat(both, np.concatenate([np.diff(one.starts), np.diff(two.starts)]))
    return _sorted(texts, codes, np.concatenate([one.rows, two.rows]))


def _sorted(texts: Any, codes: NDArray[np.int32], rows: NDArray[np.int32]) -> Block:
    """A block of the words at ``codes``; -1 is none."""
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    order = order[len(codes) - int(counts.sum()) :]
    return Block(texts, np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)]), rows[order])
