"""Two samples: do they come from one population? Tests and distances, each with its source."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid

Numbers = NDArray[np.float64]
BINS = 10
LEAST_EXPECTED = 5.0
"""Categories with fewer expected items are counted together: below, the chi-squared distribution is no good guide."""
LEAST_SHARE = 1e-4
"""Empty bins count as this share, so that one does not make the index infinite."""


def psi(reference: NDArray[np.float64], live: NDArray[np.float64]) -> float:
    """Population stability index of two lists of counts over the same bins: 0 is equal, above 0.25 is much.

    Source: Siddiqi 2006, "Credit risk scorecards", ch. 8; it is the symmetrized Kullback-Leibler divergence.
    """
    if reference.shape != live.shape or not reference.sum() or not live.sum():
        raise Invalid("counts", "of the same bins, with at least one item each", f"{reference} and {live}")
    was = np.maximum(reference / reference.sum(), LEAST_SHARE)
    now = np.maximum(live / live.sum(), LEAST_SHARE)
    return float(((now - was) * np.log(now / was)).sum())


def edges(reference: Numbers, bins: int = BINS) -> Numbers:
    """Inner bounds of bins that hold about equally many of the reference; fewer where values repeat."""
    return np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1]))


def binned(values: Numbers, bounds: Numbers) -> Numbers:
    """Counts of values in the bins between ``bounds`` (a value on a bound is in the bin below)."""
    return np.bincount(np.searchsorted(bounds, values, side="left"), minlength=len(bounds) + 1).astype(np.float64)


def ks(first: Numbers, second: Numbers) -> tuple[float, float]:
    """Kolmogorov-Smirnov: the largest distance between the two distribution functions, and its p-value.

    Source: Smirnov 1948, with the correction for finite samples of Stephens 1970, as in Press et al., "Numerical
    recipes", 14.3. With repeated values the p-value is too large rather than too small.
    """
    if not len(first) or not len(second):
        raise Invalid("samples", "of at least one value", f"{len(first)} and {len(second)}")
    a, b = np.sort(first), np.sort(second)
    every = np.concatenate([a, b])
    apart = np.searchsorted(a, every, side="right") / len(a) - np.searchsorted(b, every, side="right") / len(b)
    distance = float(np.abs(apart).max())
    size = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    return distance, _kolmogorov((size + 0.12 + 0.11 / size) * distance)


def _kolmogorov(x: float) -> float:
    """Chance of a value above ``x``."""
    if x < 0.2:
        return 1.0
    terms = (math.exp(-2.0 * k * k * x * x) * (1.0 if k % 2 else -1.0) for k in range(1, 101))
    return min(1.0, max(0.0, 2.0 * sum(terms)))


def chi2(first: Mapping[str, int], second: Mapping[str, int]) -> tuple[float, float]:
    """Pearson's chi-squared test that two lists of counts have the same shares: the statistic and its p-value.

    Categories that are too rare are counted together. Source: Pearson 1900.
    """
    table = _table(first, second)
    if table.shape[1] < 2:
        return 0.0, 1.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    value = float(((table - expected) ** 2 / expected).sum())
    return value, chi2_tail(value, table.shape[1] - 1)


def _table(first: Mapping[str, int], second: Mapping[str, int]) -> Numbers:
    names = sorted(set(first) | set(second))
    found = np.array([[first.get(n, 0) for n in names], [second.get(n, 0) for n in names]], np.float64)
    if not found.sum(axis=1).all():
        raise Invalid("counts", "of at least one item each", f"{found.sum(axis=1)}")
    smaller = found.sum(axis=1).min() / found.sum()
    is_rare = found.sum(axis=0) * smaller < LEAST_EXPECTED
    if is_rare.any():
        rest = found[:, is_rare].sum(axis=1, keepdims=True)
        found = np.concatenate([found[:, ~is_rare], rest], axis=1)
        if rest.sum() * smaller < LEAST_EXPECTED and found.shape[1] > 1:  # still too rare: join the next rarest
            least = int(found[:, :-1].sum(axis=0).argmin())
            found[:, least] += found[:, -1]
            found = found[:, :-1]
    return found[:, found.sum(axis=0) > 0]


def chi2_tail(value: float, freedom: int) -> float:
    """Chance that a chi-squared variable with so many degrees of freedom is above ``value``."""
    return _upper_gamma(freedom / 2, value / 2)


def _upper_gamma(a: float, x: float) -> float:
    """Regularized upper incomplete gamma function.

    Source: Press et al., "Numerical recipes", 6.2: a series below ``a + 1``, a continued fraction (Lentz) above.
    """
    if x <= 0:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        for k in range(1, 10_000):
            term *= x / (a + k)
            total += term
            if term < total * 1e-15:
                break
        return max(0.0, 1 - total * scale)
    tiny = 1e-300
    b = x + 1 - a
    c, d = 1 / tiny, 1 / b
    h = d
    for k in range(1, 10_000):
        factor = -k * (k - a)
        b += 2
        d = factor * d + b
        c = b + factor / c
        d = 1 / (d if abs(d) > tiny else tiny)
        c = c if abs(c) > tiny else tiny
        h *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return min(1.0, h * scale)


def mmd(
    first: NDArray[np.float32], second: NDArray[np.float32], *, permutations: int = 999, most: int = 500, seed: int = 0
) -> tuple[float, float]:
    """Maximum mean discrepancy with an RBF kernel: the unbiased estimate of its square, and the p-value.

    The kernel's width is the median distance of the points; the p-value is the share of random divisions of all points
    that are as far apart (at least ``1 / (permutations + 1)``).

    Args:
        first: points, shape ``(n, dims)``, n at least 2.
        second: points of as many dimensions.
        permutations: random divisions.
        most: points of each sample that are used, chosen at random.
        seed: of what is drawn.
    Source: Gretton et al. 2012, "A kernel two-sample test", JMLR 13.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise Invalid("points", "of the same dimensions, at least two of each", f"{first.shape}, {second.shape}")
    rng = np.random.default_rng(seed)
    a, b = (_some(points, most, rng) for points in (first, second))
    points = np.concatenate([a, b]).astype(np.float64)
    apart = _distances(points, points)
    upper = apart[np.triu_indices(len(points), 1)]
    width = float(np.median(upper[upper > 0])) if (upper > 0).any() else 1.0
    kernel = np.exp(-apart / width)
    np.fill_diagonal(kernel, 0.0)
    n, m = len(a), len(b)
    marks = np.zeros((len(points), permutations + 1))
    marks[:n, 0] = 1
    for column in range(1, permutations + 1):
        marks[rng.permutation(len(points))[:n], column] = 1
    ours = kernel @ marks
    within_first = (marks * ours).sum(axis=0)
    sums = kernel.sum(axis=1)
    across = (marks * (sums[:, None] - ours)).sum(axis=0)
    within_second = kernel.sum() - within_first - 2 * across
    found = within_first / (n * (n - 1)) + within_second / (m * (m - 1)) - 2 * across / (n * m)
    return float(found[0]), float((1 + (found[1:] >= found[0]).sum()) / (permutations + 1))


def _some(points: NDArray[np.float32], most: int, rng: np.random.Generator) -> NDArray[np.float32]:
    return points if len(points) <= most else points[np.sort(rng.choice(len(points), most, replace=False))]


def _distances(first: Numbers, second: Numbers) -> Numbers:
    """Squared distances, shape ``(n, m)``."""
    squares = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None, :] - 2 * first @ second.T
    return np.asarray(np.maximum(squares, 0.0))


def nearest(points: NDArray[np.float32], others: NDArray[np.float32], *, is_same: bool = False) -> Numbers:
    """Distance of each point to the nearest of others; ``is_same``: the two are one list, and nobody is his own."""
    apart = _distances(points.astype(np.float64), others.astype(np.float64))
    if is_same:
        np.fill_diagonal(apart, np.inf)
    return np.asarray(np.sqrt(apart.min(axis=1)))


def shares(
    first: NDArray[np.int64], many: int, second: NDArray[np.int64], more: int
) -> tuple[int, NDArray[np.float64]]:
    """Fisher's exact test, two-sided, of many shares at once: the place of the smallest p-value, and all of them.

    Args:
        first: of ``many`` items, how many have each mark, shape ``(marks,)``.
        many: items of the first sample.
        second: of ``more`` items, how many have each mark, same shape.
        more: items of the second sample.
    Source: Fisher 1922; the two-sided p-value is twice the smaller tail.
    """
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, many + more + 1)))])
    total = (first + second)[:, None]
    k = np.arange(more + 1)[None, :]
    is_possible = (k <= total) & (total - k <= many)
    k, rest = np.where(is_possible, k, 0), np.where(is_possible, total - k, 0)
    logs = factorials[more] - factorials[k] - factorials[more - k] + factorials[many] - factorials[rest]
    logs -= factorials[many - rest] + factorials[many + more] - factorials[total] - factorials[many + more - total]
    chances = np.where(is_possible, np.exp(logs), 0.0)
    rows = np.arange(len(second))
    below = np.cumsum(chances, axis=1)[rows, second]
    above = 1.0 - below + chances[rows, second]
    found = np.clip(2.0 * np.minimum(below, above), 0.0, 1.0)
    return int(found.argmin()), found


def holm(chances: Sequence[float], alpha: float) -> list[bool]:
    """Which of many tests hold, so that the chance of any false one is at most ``alpha``.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    found = [False] * len(chances)
    for rank, place in enumerate(sorted(range(len(chances)), key=lambda i: chances[i])):
        if chances[place] > alpha / (len(chances) - rank):
            break
        found[place] = True
    return found


def wilson(right: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share. Source: Wilson 1927."""
    if count <= 0:
        return 0.0, 1.0
    share = right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)
