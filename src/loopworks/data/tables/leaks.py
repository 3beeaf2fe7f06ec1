"""Columns that know the target: they predict it too well alone, or are known only after it.

Each column is judged by itself on a sample (50,000 rows; rows lie by hash, so the first ones are a random sample): cut
into bins, the target's mean in each bin is learnt on one half and tried on the other, both ways round. So a column of
many values gains nothing from its noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

AUC = 0.97
"""Area under the ROC curve of one column alone from which it is reported; the best clean columns of our sets: 0.75."""
R2 = 0.9
"""Share of the target's variance that one column alone explains from which it is reported."""
LIFT = 0.97
"""With three classes or more: share of the errors of always saying the commonest class that one column avoids."""
EXACT = 0.99999
SAMPLE = 50_000
BINS = 64
_VALUES = 500
_FEWEST = 60  # rows, for a value to be called certain


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A column that knows the target."""

    column: str
    kind: str
    """predicts, certain, missing, later or sum."""
    score: float
    message: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"column": self.column, "kind": self.kind, "score": self.score, "message": self.message}


def find(
    columns: Mapping[str, tuple[str, NDArray[Any]]], target: NDArray[Any], *, is_regression: bool
) -> tuple[list[Leak], dict[str, float]]:
    """Leaks among the columns, and the score of each column alone.

    Args:
        columns: name -> (number, word or moment; values: numbers with NaN, or texts with None), shape ``(rows,)``.
        target: numbers, or texts, none missing, shape ``(rows,)``.
        is_regression: whether the target is a number to be predicted.
    """
    goal = _Goal(target, is_regression)
    leaks: list[Leak] = []
    scores: dict[str, float] = {}
    if goal.is_hopeless:
        return leaks, scores
    for name, (kind, values) in columns.items():
        codes, labels, is_missing = _binned(values, kind)
        score = goal.score(codes)
        scores[name] = round(score, 4)
        if score >= goal.limit:
            message = f"column {name!r} alone predicts the target: {goal.measure} {score:.3f}, tried on other rows"
            gap = goal.score(is_missing.astype(np.int64)) if is_missing.any() else -1.0
            if gap >= goal.limit:
                leaks.append(Leak(column=name, kind="missing", score=gap, message=_gap(name, goal, gap)))
            else:
                leaks.append(Leak(column=name, kind="predicts", score=score, message=message))
        elif certain := goal.certain(codes, labels):
            message = f"column {name!r} is sure of the target where it is {certain[0]}: {certain[1]}"
            leaks.append(Leak(column=name, kind="certain", score=1.0, message=message))
    if is_regression and (found := _sum(columns, goal)):
        names, score = found
        if not set(names) <= {leak.column for leak in leaks}:
            said = " + ".join(repr(name) for name in names)
            message = f"{said}: their weighted sum is the target (R2 {score:.5f} on other rows)"
            known = {leak.column for leak in leaks}
            leaks += [Leak(column=n, kind="sum", score=score, message=message) for n in names if n not in known]
    return leaks, scores


def later(name: str, moments: NDArray[np.float64], when: NDArray[np.float64]) -> Leak | None:
    """A date or time that lies after the row's own time by more than a day, in most rows that have it."""
    has = ~np.isnan(moments) & ~np.isnan(when)
    if has.sum() < 20:
        return None
    share = float((moments[has] > when[has] + 86_400).mean())
    if share < 0.5:
        return None
    message = f"column {name!r} is later than the row's time in {share:.0%} of the rows: known only afterwards"
    return Leak(column=name, kind="later", score=share, message=message)


class _Goal:
    """The target, and how well bins know it."""

    def __init__(self, target: NDArray[Any], is_regression: bool) -> None:
        self.half = np.arange(len(target)) % 2 == 0
        self.is_binary = False
        if is_regression:
            self.kept = np.isfinite(target.astype(np.float64))
            self.values = np.where(self.kept, target.astype(np.float64), 0.0)[:, None]
            self.limit, self.measure = R2, "R2"
            self.is_hopeless = bool(self.kept.sum() < 50) or float(np.std(self.values)) == 0
            return
        classes, codes, counts = np.unique(target.astype(str), return_inverse=True, return_counts=True)
        self.kept = np.ones(len(target), bool)
        self.is_binary = len(classes) == 2
        self.is_hopeless = len(classes) < 2 or int(np.sort(counts)[-2]) < 10 or len(target) < 50
        if self.is_binary:
            rare = int(np.argmin(counts))
            self.values = (codes == rare).astype(np.float64)[:, None]
            self.name = str(classes[rare])
            self.limit, self.measure = AUC, "AUC"
        else:
            top = np.argsort(-counts)[:100]
            self.values = (codes[:, None] == top[None, :]).astype(np.float64)
            self.limit, self.measure = LIFT, "share of errors avoided"

    def score(self, codes: NDArray[np.int64]) -> float:
        """What the bins know of the target on rows that they did not learn from."""
        guess = np.zeros_like(self.values)
        for learn in (self.half, ~self.half):
            guess[~learn] = self._means(codes, learn)[codes[~learn]]
        kept = self.kept
        if self.measure == "R2":
            real = self.values[kept, 0]
            left = float(((real - guess[kept, 0]) ** 2).sum())
            return 1.0 - left / max(float(((real - real.mean()) ** 2).sum()), 1e-300)
        if self.is_binary:
            return auc(guess[:, 0], self.values[:, 0] > 0)
        base = float(self.values.mean(axis=0).max())
        right = float(self.values[np.arange(len(guess)), guess.argmax(axis=1)].mean())
        return (right - base) / max(1 - base, 1e-12)

    def certain(self, codes: NDArray[np.int64], labels: list[str]) -> tuple[str, str] | None:
        """A value that always goes with the rare class, far too often for chance."""
        if not self.is_binary:
            return None
        rate = float(self.values.mean())
        count = np.bincount(codes, minlength=len(labels))
        hits = np.bincount(codes, self.values[:, 0], minlength=len(labels))
        for place in np.flatnonzero((count >= _FEWEST) & (hits == count)).tolist():
            if count[place] * np.log10(max(rate, 1e-12)) < -9:
                return labels[place], f"{self.name!r} in all {count[place]} rows of the sample"
        return None

    def _means(self, codes: NDArray[np.int64], learn: NDArray[np.bool_]) -> NDArray[np.float64]:
        use = learn & self.kept
        size = int(codes.max()) + 1
        count = np.bincount(codes[use], minlength=size).astype(np.float64)
        mean = self.values[use].mean(axis=0)
        sums = np.stack(
            [np.bincount(codes[use], self.values[use, c], minlength=size) for c in range(self.values.shape[1])], axis=1
        )
        # One row's worth of the overall mean: a bin that was never seen says nothing.
        found: NDArray[np.float64] = (sums + mean) / (count + 1)[:, None]
        return found


def auc(scores: NDArray[np.float64], is_hit: NDArray[np.bool_]) -> float:
    """Area under the ROC curve, in 0..1; ties count half. Source: Mann, Whitney 1947."""
    order = np.argsort(scores, kind="stable")
    _, start, count = np.unique(scores[order], return_index=True, return_counts=True)
    ranks = np.empty(len(scores))
    ranks[order] = np.repeat(start + (count + 1) / 2, count)
    hits = int(is_hit.sum())
    others = len(is_hit) - hits
    if not hits or not others:
        return 0.5
    return float((ranks[is_hit].sum() - hits * (hits + 1) / 2) / (hits * others))


def _binned(values: NDArray[Any], kind: str) -> tuple[NDArray[np.int64], list[str], NDArray[np.bool_]]:
    """The bin of each row (0: missing, 1: rare), the bins' names, and which rows are missing."""
    if kind == "word":
        is_missing = np.array([value is None for value in values])
        found, inverse, counts = np.unique(
            np.where(is_missing, "", values).astype(str), return_inverse=True, return_counts=True
        )
        common = [place for place in np.argsort(-counts, kind="stable")[:_VALUES].tolist() if counts[place] >= 4]
        code = np.ones(len(found), np.int64)
        code[common] = np.arange(2, 2 + len(common))
        codes = np.where(is_missing, 0, code[inverse])
        return codes, ["missing", "rare", *(repr(str(found[place])) for place in common)], is_missing
    numbers = values.astype(np.float64)
    is_missing = np.isnan(numbers)
    real = numbers[~is_missing]
    distinct = np.unique(real)
    edges = distinct if len(distinct) <= BINS else _edges(real, distinct)
    codes = np.where(is_missing, 0, 2 + np.maximum(np.searchsorted(edges, numbers, side="right") - 1, 0))
    exact = len(distinct) <= BINS
    return codes, ["missing", "rare", *(f"{'' if exact else 'about '}{edge:g}" for edge in edges)], is_missing


def _edges(real: NDArray[np.float64], distinct: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bins of equal size; and of the distinct values too, as nearly all rows may have one of them."""
    shares = np.linspace(0, 1, BINS // 2 + 1)[:-1]
    inner = distinct[(np.arange(BINS // 2) * len(distinct)) // (BINS // 2)]
    rest = distinct[1:2]  # so that the smallest, often 0 for none, stands alone
    return np.unique(np.concatenate([np.quantile(real, shares, method="lower"), inner, rest]))


def _gap(name: str, goal: _Goal, score: float) -> str:
    return f"whether column {name!r} is filled tells the target: {goal.measure} {score:.3f}, tried on other rows"


def _sum(columns: Mapping[str, tuple[str, NDArray[Any]]], goal: _Goal) -> tuple[list[str], float] | None:
    """Columns of numbers whose weighted sum is the target, by least squares on one half, tried on the other."""
    names = [name for name, (kind, values) in columns.items() if kind == "number"]
    names = [name for name in names if np.isfinite(columns[name][1].astype(np.float64)).all()]
    if len(names) < 2:
        return None
    cells = np.stack([columns[name][1].astype(np.float64) for name in names], axis=1)
    spread = cells.std(axis=0)
    names = [name for name, one in zip(names, spread, strict=True) if one > 0]
    cells, spread = cells[:, spread > 0], spread[spread > 0]
    scaled = np.concatenate([(cells - cells.mean(axis=0)) / spread, np.ones((len(cells), 1))], axis=1)
    learn = goal.half & goal.kept
    weights, *_ = np.linalg.lstsq(scaled[learn], goal.values[learn, 0], rcond=None)
    test = ~goal.half & goal.kept
    real = goal.values[test, 0]
    left = float(((real - scaled[test] @ weights) ** 2).sum())
    score = 1.0 - left / max(float(((real - real.mean()) ** 2).sum()), 1e-300)
    if score < EXACT:
        return None
    large = np.abs(weights[:-1]) > 0.01 * float(goal.values[goal.kept].std())
    return [name for name, is_large in zip(names, large, strict=True) if is_large], score
