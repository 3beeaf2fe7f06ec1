"""Where a model is worse than elsewhere: results by what is known of the items, not mistaking chance for a finding."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Metric
from loopworks.core.values import Score
from loopworks.tasks.scores import bootstrap

LEAST = 8
"""Items that a slice and the rest must have, each."""
MOST = 40
"""Slices that are looked at, the largest first."""
VALUES = 12
"""Values of a column that become slices, the most frequent first."""
BINS = 4
ROUNDS, FEW_ROUNDS, MANY = 1000, 200, 20_000
"""Permutations, and those for more than ``MANY`` items."""
LEVEL = 0.05
"""Chance that any slice at all is called worse where none is."""
RESAMPLES, FINE, ROUGH_RESAMPLES = 200, 10, 50
"""Of the interval of each of the ``FINE`` worst slices, and of the others: some headlines take milliseconds each."""
NAMES = frozenset({"name", "item"})
"""Facts that tell items apart and group nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Some of the items, and how the model does on them."""

    column: str
    value: str
    score: Score
    """The headline on the slice."""
    rest: float
    """The headline on all other items."""
    chance: float
    """Chance, in 0..1, that the worst of all slices looks as bad as this one where none is worse than the rest."""

    @property
    def is_worse(self) -> bool:
        """Whether the slice is worse than the rest beyond what looking at many slices explains."""
        return self.chance < LEVEL and self.score.value < self.rest

    def to_json(self) -> dict[str, Any]:
        """As plain JSON: the headline on the slice is ``value``, with ``low``, ``high`` and ``count``."""
        return {
            "column": self.column,
            "group": self.value,
            **self.score.to_json(),
            "rest": self.rest,
            "chance": self.chance,
            "is_worse": self.is_worse,
        }


def slices(
    facts: Sequence[Mapping[str, Any]],
    quality: NDArray[np.float64],
    headline: Metric,
    *,
    seed: int,
) -> list[Slice]:
    """The headline by every column of ``facts``, the worst slice first.

    Args:
        facts: column -> value of each item. Texts and truths group by value, lists (tags) by their members, numbers by
            quarters; what is missing is a group too.
        quality: how right the answer is for each item, in 0..1: what the test compares.
        headline: of any of the items.
        seed: of resampling.
    Source: Westfall and Young 1993, "Resampling-based multiple testing": one permutation test of the worst deficit
        guards against many comparisons, also where slices overlap.
    """
    count = len(quality)
    found = _distinct(_groups(facts), count)
    if not found:
        return []
    member = np.stack([where for _, _, where in found])
    chances = _chances(member, quality, seed)
    results: list[Slice] = []
    for place in np.argsort(chances, kind="stable"):
        (column, value, where), chance = found[place], chances[place]
        rounds = RESAMPLES if len(results) < FINE else ROUGH_RESAMPLES
        at, others = np.flatnonzero(where), np.flatnonzero(~where)
        score = bootstrap(lambda some, at=at: headline(at[some]), len(at), seed=seed, rounds=rounds)  # type: ignore[misc]
        results.append(Slice(column=column, value=value, score=score, rest=headline(others), chance=float(chance)))
    return sorted(results, key=lambda one: (one.chance, one.score.value - one.rest, one.column, one.value))


def _chances(member: NDArray[np.bool_], quality: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """For each slice: how often the largest deficit of shuffled items is as large as its own."""
    count = len(quality)
    sizes = member.sum(axis=1).astype(np.float64)
    scale = float(quality.std()) * np.sqrt(1 / sizes + 1 / (count - sizes))
    if not scale.all():
        return np.ones(len(member))
    weights = member.astype(np.float64)

    def deficits(values: NDArray[np.float64]) -> NDArray[np.float64]:
        # Not a product of matrices, whose threads wait for each other beside other work (6 s where this takes 0.1).
        sums = np.einsum("sn,nr->sr", weights, values)
        inside = sums / sizes[:, None]
        outside = (values.sum(axis=0) - sums) / (count - sizes)[:, None]
        return np.asarray((outside - inside) / scale[:, None])

    seen = deficits(quality[:, None])[:, 0]
    rng = np.random.default_rng(seed)
    rounds = ROUNDS if count <= MANY else FEW_ROUNDS
    largest = []
    for start in range(0, rounds, 50):
        some = min(50, rounds - start)
        shuffled = rng.permuted(np.repeat(quality[:, None], some, axis=1), axis=0)
        largest.append(deficits(shuffled).max(axis=0))
    worst = np.concatenate(largest)
    return np.asarray([(1 + float((worst >= one - 1e-12).sum())) / (1 + rounds) for one in seen])


def _distinct(
    groups: Iterator[tuple[str, str, NDArray[np.bool_]]], count: int
) -> list[tuple[str, str, NDArray[np.bool_]]]:
    """Groups that are large enough, each set of items once, the largest first."""
    seen: dict[bytes, tuple[str, str, NDArray[np.bool_]]] = {}
    for column, value, where in groups:
        if LEAST <= int(where.sum()) <= count - LEAST:
            seen.setdefault(np.packbits(where).tobytes(), (column, value, where))
    return sorted(seen.values(), key=lambda one: (-int(one[2].sum()), one[0], one[1]))[:MOST]


def _groups(facts: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    for column in sorted({name for row in facts for name in row} - NAMES):
        values = [row.get(column) for row in facts]
        if any(isinstance(value, list | tuple) for value in values):
            yield from _members(column, values)
        elif _is_numeric(values):
            yield from _quarters(column, values)
        else:
            yield from _values(column, values)


def _is_numeric(values: Sequence[Any]) -> bool:
    given = [value for value in values if value is not None]
    numbers = [value for value in given if isinstance(value, int | float) and not isinstance(value, bool)]
    return bool(given) and len(numbers) == len(given) and len(set(given)) > 2 * BINS


def _members(column: str, values: Sequence[Any]) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    sets = [set(map(str, value)) if isinstance(value, list | tuple) else set() for value in values]
    counts = Counter(one for members in sets for one in members)
    for name, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:VALUES]:
        yield column, name[:80], np.asarray([name in members for members in sets])


def _values(column: str, values: Sequence[Any]) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    texts = ["missing" if value is None or value == "" else str(value) for value in values]
    counts = Counter(texts)
    for name, _ in sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:VALUES]:
        yield column, name[:80], np.asarray([text == name for text in texts])


def _quarters(column: str, values: Sequence[Any]) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    numbers = np.asarray([np.nan if value is None else float(value) for value in values])
    is_known = np.isfinite(numbers)
    if not is_known.all():
        yield column, "missing", ~is_known
    edges = np.unique(np.quantile(numbers[is_known], np.linspace(0, 1, BINS + 1)))
    for place, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        is_last = place == len(edges) - 2
        with np.errstate(invalid="ignore"):
            where = (numbers >= low) & ((numbers <= high) if is_last else (numbers < high))
        yield column, f"{low:.4g} to {high:.4g}", where
