"""Suspicious labels by confident learning: which given labels are probably wrong, from out-of-fold probabilities.

Source: Northcutt, Jiang and Chuang 2021, "Confident learning: estimating uncertainty in dataset labels", JAIR 70:
per-class thresholds (their equation 2), the confident joint (1), its calibration (3), and pruning by noise rate (3.2).
Written from the paper.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid

Rank = str
RANKS = ("margin", "confidence")


@dataclass(frozen=True, slots=True)
class Suspects:
    """Labels that are probably wrong, the worst first."""

    at: NDArray[np.int64]
    """Positions of the items."""
    suggested: NDArray[np.int64]
    """The class that each of them probably is."""
    score: NDArray[np.float64]
    """How good the given label is: its probability, or the margin brought to 0..1 (0: certainly wrong)."""


def thresholds(given: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each class, the mean probability of it over the items that are labelled so; infinite where none is."""
    classes = probabilities.shape[1]
    count = np.bincount(given, minlength=classes)
    own = np.bincount(given, probabilities[np.arange(len(given)), given], minlength=classes)
    found: NDArray[np.float64] = np.where(count > 0, own / np.maximum(count, 1), np.inf)
    return found


def joint(given: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """The calibrated confident joint: estimated number of items by given (row) and true (column) class.

    An item counts for the class of which it has at least that class's threshold, for the likeliest where several do.
    Rows are then scaled to the number of items that carry the label, so that the sum is the number of items.
    """
    _check(given, probabilities)
    classes = probabilities.shape[1]
    sure = probabilities >= thresholds(given, probabilities) - 1e-12
    counted = sure.any(axis=1)
    true = np.where(sure, probabilities, -1.0).argmax(axis=1)
    raw = np.bincount(given[counted] * classes + true[counted], minlength=classes * classes).reshape(classes, classes)
    carried = np.bincount(given, minlength=classes)
    alone = np.diag(carried) * (raw.sum(axis=1, keepdims=True) == 0)  # nobody is sure of them: believe the label
    raw = raw + alone
    scaled: NDArray[np.float64] = raw / np.maximum(raw.sum(axis=1, keepdims=True), 1) * carried[:, None]
    return scaled


def suspects(given: NDArray[np.int64], probabilities: NDArray[np.float64], rank: Rank = "margin") -> Suspects:
    """Labels that are probably wrong.

    For each pair of given class i and other class j as many items as the joint says, those labelled i whose
    probability of j exceeds that of i the most.

    Args:
        given: class ids as labelled, shape ``(n,)``.
        probabilities: out-of-fold, shape ``(n, classes)``, rows that sum to 1.
        rank: margin (probability of the given class less that of the likeliest other one), or confidence
            (probability of the given class).
    Raises: Invalid: shapes that do not fit, or an unknown rank.
    """
    if rank not in RANKS:
        raise Invalid("rank", " or ".join(RANKS), rank)
    number = np.rint(joint(given, probabilities)).astype(np.int64)
    rows = np.arange(len(given))
    own = probabilities[rows, given]
    rest = probabilities.copy()
    rest[rows, given] = -1.0
    chosen: dict[int, tuple[float, int]] = {}
    for i, j in zip(*np.nonzero(number), strict=True):
        if i == j:
            continue
        mine = np.flatnonzero(given == i)
        excess = probabilities[mine, j] - own[mine]
        worst = np.argsort(-excess, kind="stable")[: number[i, j]]
        for at in worst[excess[worst] > 0]:
            best = (float(excess[at]), int(j))
            chosen[int(mine[at])] = max(chosen.get(int(mine[at]), (-1.0, -1)), best)
    at = np.array(sorted(chosen), np.int64)
    suggested = np.array([chosen[int(one)][1] for one in at], np.int64)
    margin = (own[at] - rest[at].max(axis=1) + 1) / 2 if len(at) else np.zeros(0)
    score = margin if rank == "margin" else own[at]
    order = np.argsort(score, kind="stable")
    return Suspects(at[order], suggested[order], score[order])


def _check(given: NDArray[np.int64], probabilities: NDArray[np.float64]) -> None:
    if probabilities.ndim != 2 or given.shape != probabilities.shape[:1]:
        raise Invalid("probabilities", f"of shape ({len(given)}, classes)", probabilities.shape)
    if len(given) and not 0 <= given.min() <= given.max() < probabilities.shape[1]:
        raise Invalid("given labels", f"in 0..{probabilities.shape[1] - 1}", (int(given.min()), int(given.max())))
