"""What chances say beyond the headline: calibration, confusion, and the curves of every threshold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Odds
from loopworks.tasks.scores import auc

BINS = 10
SIMULATED = 200
WHOLE = 60
"""Classes up to which the whole confusion matrix is kept."""
PAIRS = 30
DRAWN = 12
"""Classes whose curves are kept, the most frequent first."""
POINTS = 41


def calibration(odds: Odds, *, seed: int) -> dict[str, Any]:
    """Whether chances are what they say: of items with a chance of 0.8, four in five must be right.

    Exclusive classes: the highest chance against whether its class is right. Independent ones: every chance against
    whether the class is there.

    Returns: ``error``, the expected calibration error in 0..1 over ``BINS`` bins of equal width; ``by_chance``, the
        error that chances without fault stay under in 19 of 20 draws of as many items; ``bins``: mean chance, share
        that is right, and count, of the bins that hold something; ``brier``, the mean squared error of the chances.
    Source: Guo et al. 2017, "On calibration of modern neural networks".
    """
    if odds.is_exclusive:
        said = odds.chances.max(axis=1)
        right = odds.truth[np.arange(len(said)), odds.chances.argmax(axis=1)]
    else:
        said, right = odds.chances.ravel(), odds.truth.ravel()
    place = np.minimum((said * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    means = np.bincount(place, said, BINS)

    def error(hits: NDArray[np.float64]) -> float:
        return float(np.abs(means - np.bincount(place, hits, BINS)).sum() / len(said))

    shares = np.bincount(place, right.astype(np.float64), BINS)
    rng = np.random.default_rng(seed)
    simulated = [error((rng.random(len(said)) < said).astype(np.float64)) for _ in range(SIMULATED)]
    return {
        "error": error(right.astype(np.float64)),
        "by_chance": float(np.quantile(simulated, 0.95)),
        "brier": float(((odds.chances - odds.truth) ** 2).sum(axis=1).mean()),
        "bins": [
            {"chance": float(means[i] / n), "right": float(shares[i] / n), "count": int(n)}
            for i, n in enumerate(counts)
            if n
        ],
    }


def confusion(odds: Odds, classes: Sequence[str]) -> dict[str, Any]:
    """How often each class is taken for each other.

    Returns: ``pairs``: truth, answer and count of the most frequent mistakes; for up to ``WHOLE`` classes ``matrix``
        too: rows are the truth, columns the answer, both in the order of ``classes``.
    """
    size = len(classes)
    at = odds.truth.argmax(axis=1) * size + odds.answers.argmax(axis=1)
    matrix = np.bincount(at, minlength=size * size).reshape(size, size)
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    found: dict[str, Any] = {
        "pairs": [
            {"truth": classes[i // size], "answer": classes[i % size], "count": int(wrong.flat[i])}
            for i in order
            if wrong.flat[i]
        ]
    }
    if size <= WHOLE:
        found |= {"classes": list(classes), "matrix": matrix.tolist()}
    return found


def curves(odds: Odds, classes: Sequence[str]) -> list[dict[str, Any]]:
    """ROC and precision-recall curves, each class against the rest.

    Returns: per class, the most frequent first: ``class``, ``auc``, ``average_precision``, ``roc`` (pairs of false and
        true positive rate) and ``pr`` (pairs of recall and precision), each of at most ``POINTS`` points. Classes of
        which no item, or every item, is, have no curve. Of two exclusive classes the second alone is drawn.
    """
    totals = odds.truth.sum(axis=0)
    columns = [i for i in range(len(classes)) if 0 < totals[i] < len(odds.truth)]
    if odds.is_exclusive and len(classes) == 2:
        columns = columns[-1:]
    everything = np.arange(len(odds.truth))
    found = []
    for i in sorted(columns, key=lambda i: (-int(totals[i]), i))[:DRAWN]:
        order = np.argsort(-odds.chances[:, i], kind="stable")
        sorted_chances, hits = odds.chances[order, i], odds.truth[order, i]
        # One point per distinct chance: items that are equally likely are taken together.
        ends = np.append(np.flatnonzero(np.diff(sorted_chances)), len(hits) - 1)
        up = np.cumsum(hits)[ends].astype(np.float64)
        down = (ends + 1) - up
        recall, precision = up / up[-1], up / (ends + 1)
        found.append({
            "class": classes[i],
            "count": int(totals[i]),
            "auc": auc(odds.chances[:, i], odds.truth[:, i])(everything),
            "average_precision": float((np.diff(recall, prepend=0.0) * precision).sum()),
            "roc": _thin(np.append(0.0, down / down[-1]), np.append(0.0, recall)),
            "pr": _thin(np.append(0.0, recall), np.append(precision[0], precision)),
        })
    return found


def _thin(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[list[float]]:
    at = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(np.int64))
    return [[round(float(x[i]), 4), round(float(y[i]), 4)] for i in at]
