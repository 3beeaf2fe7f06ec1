"""Near duplicates among images: a perceptual hash finds candidates, the thumbnails themselves decide.

Everything here works on rows of the descriptor ``feature.near``. Sources: Zauner 2010, "Implementation and benchmarking
of perceptual image hash functions" (the hash of the low frequencies of the cosine transform); the search in blocks
by the pigeonhole principle: Manku et al. 2007, "Detecting near-duplicates for web crawling".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loopworks.data.features.images import SIDE

BITS = 64
REACH = 7
"""The largest distance in bits that ``candidates`` finds all pairs of."""
EXHAUSTIVE = 20_000
"""Up to so many hashes all are compared with all: half a second of work."""
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of alike images: positions ``left`` < ``right`` and how alike they are, in 0..1."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    score: NDArray[np.float32]


def hashes(rows: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The 64-bit perceptual hash of each thumbnail, shape ``(n,)``."""
    bright = np.asarray(rows[:, : SIDE * SIDE]).reshape(-1, SIDE, SIDE).astype(np.float32)
    at = np.arange(SIDE)
    waves = np.cos(np.pi * np.arange(1, 9)[:, None] * (2 * at + 1) / (2 * SIDE)).astype(np.float32)
    low = (waves @ bright @ waves.T).reshape(len(bright), BITS)
    bits = low > np.median(low, axis=1, keepdims=True)
    packed: NDArray[np.uint64] = np.packbits(bits, axis=1).view(">u8").astype(np.uint64).reshape(-1)
    return packed


def find(rows: NDArray[np.uint8], *, distance: int = REACH, alike: float = 0.95, tone: float = 12.0) -> Pairs:
    """All pairs of near duplicates.

    Args:
        rows: of ``feature.near``, shape ``(n, 1152)``.
        distance: bits in which the hashes of candidates may differ, 0..7.
        alike: least correlation of the two thumbnails' brightness, in 0..1.
        tone: most that brightness and colours may differ on average, in steps of 256.
    """
    left, right = candidates(hashes(rows), distance)
    keep, score = [], []
    for at in range(0, len(left), 16_384):
        part = slice(at, at + 16_384)
        same, how = verify(rows[left[part]], rows[right[part]], alike, tone)
        keep.append(np.flatnonzero(same) + at)
        score.append(how[same])
    kept = np.concatenate(keep) if keep else np.zeros(0, np.int64)
    return Pairs(left[kept], right[kept], np.concatenate(score) if score else np.zeros(0, np.float32))


def verify(
    first: NDArray[np.uint8], second: NDArray[np.uint8], alike: float, tone: float
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Whether the thumbnails in the same rows show the same, and their correlation in 0..1.

    A change of exposure or contrast is forgiven in the brightness, in measure; another colour is not. Images without
    any structure (one tone all over) correlate with nothing: they are the same where their tones are.
    """
    cut = SIDE * SIDE
    one, two = np.asarray(first, np.float32), np.asarray(second, np.float32)
    a, b = one[:, :cut], two[:, :cut]
    shift = np.abs(a.mean(axis=1) - b.mean(axis=1))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    spread_a, spread_b = np.sqrt((a * a).mean(axis=1)), np.sqrt((b * b).mean(axis=1))
    flat = np.maximum(spread_a, spread_b) < 2
    match = (a * b).mean(axis=1) / np.maximum(spread_a * spread_b, 1e-6)
    match = np.where(flat, (shift < 2).astype(np.float32), match)
    colours = np.abs(one[:, cut:] - two[:, cut:]).mean(axis=1)
    score: NDArray[np.float32] = np.clip(match, 0, 1).astype(np.float32)
    return (score >= alike) & (shift <= 4 * tone) & (colours <= tone), score


def candidates(codes: NDArray[np.uint64], distance: int = REACH) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of positions (left < right) whose hashes differ in at most ``distance`` bits (0..7).

    Equal hashes are joined first: of each group only the first is compared with the rest of the world, and every
    other member with the first.
    """
    order = np.argsort(codes, kind="stable")
    fresh = np.concatenate(([True], codes[order][1:] != codes[order][:-1])) if len(codes) else np.zeros(0, np.bool_)
    starts = np.flatnonzero(fresh)
    first = order[starts]
    leader = np.empty(len(codes), np.int64)
    leader[order] = np.repeat(first, np.diff(np.append(starts, len(codes))))
    others = np.flatnonzero(leader != np.arange(len(codes)))
    found = [(leader[others], others)]
    unique = codes[first]
    search = _exhaustive if len(unique) <= EXHAUSTIVE else _banded
    found += [(first[a], first[b]) for a, b in search(unique, distance)]
    left = np.concatenate([a for a, _ in found])
    right = np.concatenate([b for _, b in found])
    return np.minimum(left, right), np.maximum(left, right)


def _exhaustive(codes: NDArray[np.uint64], distance: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    for at in range(0, len(codes), _BLOCK):
        apart = np.bitwise_count(codes[at : at + _BLOCK, None] ^ codes[None, at:])
        left, right = np.nonzero(apart <= distance)
        keep = left < right
        yield left[keep] + at, right[keep] + at


def _banded(codes: NDArray[np.uint64], distance: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Of two hashes that differ in at most 7 bits, one of the four 16-bit bands differs in at most one."""
    flips = np.concatenate(([0], 1 << np.arange(16))).astype(np.uint64)
    pairs: list[NDArray[np.int64]] = []
    for band in range(4):
        part = (codes >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(part, kind="stable")
        bounds = np.searchsorted(part[order], np.arange(65_537, dtype=np.uint64))
        for flip in flips:
            for at in range(0, len(codes), 8192):
                mine = np.arange(at, min(at + 8192, len(codes)))
                probe = (part[mine] ^ flip).astype(np.int64)
                low, high = bounds[probe], bounds[probe + 1]
                count = high - low
                left = np.repeat(mine, count)
                inside = np.arange(len(left)) - np.repeat(np.cumsum(count) - count, count)
                right = order[np.repeat(low, count) + inside]
                near = (left < right) & (np.bitwise_count(codes[left] ^ codes[right]) <= distance)
                pairs.append(left[near] * len(codes) + right[near])
    both = np.unique(np.concatenate(pairs)) if pairs else np.zeros(0, np.int64)
    yield both // len(codes), both % len(codes)


def stars(pairs: Pairs, rank: Sequence[int] | NDArray[np.int64]) -> list[tuple[int, list[tuple[int, float]]]]:
    """Groups around the image to keep: (its position, [(position of a copy, how alike)]).

    Every copy was found alike to the one that is kept, so a slow change over the frames of a video does not make
    one group of all of them. Images of a lower ``rank`` are kept first.
    """
    near: dict[int, dict[int, float]] = {}
    for left, right, score in zip(pairs.left.tolist(), pairs.right.tolist(), pairs.score.tolist(), strict=True):
        near.setdefault(left, {})[right] = score
        near.setdefault(right, {})[left] = score
    taken: set[int] = set()
    groups: list[tuple[int, list[tuple[int, float]]]] = []
    for one in sorted(near, key=lambda at: (rank[at], at)):
        if one in taken:
            continue
        copies = sorted((other, score) for other, score in near[one].items() if other not in taken)
        if copies:
            groups.append((one, copies))
            taken.update((one, *(other for other, _ in copies)))
    return groups
