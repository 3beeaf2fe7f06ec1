"""Items unlike all others: far from their nearest neighbours."""

import numpy as np
from numpy.typing import NDArray

LIMIT = 20_000
"""Above so many rows each is compared with a sample of so many."""
_BLOCK = 1024


def distances(rows: NDArray[np.float32], k: int = 10, seed: int = 0) -> NDArray[np.float64]:
    """Mean distance of each row to its ``k`` nearest others, shape ``(n,)``.

    Source: Angiulli and Pizzuti 2002, "Fast outlier detection in high dimensional spaces".
    """
    n = len(rows)
    if n < 2:
        return np.zeros(n)
    picked = np.arange(n)
    if n > LIMIT:
        picked = np.sort(np.random.default_rng(seed).choice(n, LIMIT, replace=False))
    others = rows[picked]
    length = (others * others).sum(axis=1)
    place = np.full(n, -1)
    place[picked] = np.arange(len(picked))
    k = min(k, len(picked) - 1)
    out = np.empty(n)
    for at in range(0, n, _BLOCK):
        part = rows[at : at + _BLOCK]
        apart = (part * part).sum(axis=1)[:, None] + length - 2 * part @ others.T
        mine = place[at : at + _BLOCK]
        known = np.flatnonzero(mine >= 0)
        apart[known, mine[known]] = np.inf
        nearest = np.partition(apart, k - 1, axis=1)[:, :k]
        out[at : at + _BLOCK] = np.sqrt(np.maximum(nearest, 0)).mean(axis=1)
    return out


def far(distance: NDArray[np.float64], strength: float = 5.0) -> NDArray[np.int64]:
    """Positions of the rows that lie too far off, the farthest first.

    Too far is more than ``strength`` spreads above the middle, spread and middle being the median and the median
    absolute deviation (as a standard deviation, x 1.4826), which a few outliers do not move.
    """
    if not len(distance):
        return np.zeros(0, np.int64)
    middle = float(np.median(distance))
    spread = 1.4826 * float(np.median(np.abs(distance - middle)))
    found = np.flatnonzero(distance > middle + strength * max(spread, 1e-6))
    return found[np.argsort(-distance[found], kind="stable")]
