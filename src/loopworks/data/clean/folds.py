"""Out-of-fold probabilities: what a plain model says of each item that it did not learn from. NumPy alone.

The model is the mean of a logistic regression and of a vote of the nearest neighbours: the first is right where classes
lie in heaps, the second where they do not. Measured on digits with 5 % of the labels wrong: precision 0.86 with the
regression alone, 0.95 with the vote or the mean; recall 0.83, 0.89, 0.91.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid

Tick = Callable[[float], None]
LIMIT = 20_000


def out_of_fold(
    rows: NDArray[np.float32],
    given: NDArray[np.int64],
    classes: int,
    *,
    folds: int = 5,
    strength: float = 0.03,
    neighbours: int = 10,
    seed: int = 0,
    groups: NDArray[np.int64] | None = None,
    tick: Tick | None = None,
) -> NDArray[np.float64]:
    """Probabilities of each class from models that were trained on the other folds, shape ``(n, classes)``.

    Args:
        rows: features, shape ``(n, d)``.
        given: class ids, shape ``(n,)``.
        classes: how many there are; one that no training fold has gets probability 0.
        folds: 2 or more; every class is spread evenly over them.
        strength: of the fit against the penalty on large weights (as C in the usual notation), above 0.
        neighbours: that vote.
        seed: of the folds.
        groups: items of one number go into one fold, so that copies do not vouch for each other.
        tick: takes the share done after each fold.
    Raises: Invalid: fewer than two folds.
    """
    if folds < 2:
        raise Invalid("folds", "2 or more", folds)
    fold = spread(given, folds, seed, groups)
    out = np.zeros((len(rows), classes))
    for number in range(folds):
        inside = fold == number
        if inside.any() and not inside.all():
            present, local = np.unique(given[~inside], return_inverse=True)
            model = fit(rows[~inside], local, len(present), strength=strength)
            votes = vote(rows[~inside], local, len(present), rows[inside], neighbours)
            out[np.ix_(inside, present)] = (model(rows[inside]) + votes) / 2
        if tick:
            tick((number + 1) / folds)
    return out


def spread(
    given: NDArray[np.int64], folds: int, seed: int, groups: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """A fold for each item, shape ``(n,)``: classes evenly shared out, in random order; a group stays together."""
    rng = np.random.default_rng(seed)
    kept = np.arange(len(given)) if groups is None else groups
    _, first, member = np.unique(kept, return_index=True, return_inverse=True)
    order = rng.permutation(len(first))
    order = order[np.argsort(given[first[order]], kind="stable")]
    fold = np.empty(len(first), np.int64)
    fold[order] = np.arange(len(first)) % folds
    found: NDArray[np.int64] = fold[member]
    return found


def vote(
    rows: NDArray[np.float32],
    given: NDArray[np.int64],
    classes: int,
    asked: NDArray[np.float32],
    k: int = 10,
    sharpness: float = 10.0,
) -> NDArray[np.float64]:
    """Probabilities from the labels of the ``k`` nearest rows by the angle from their mean, near ones counting more.

    Above ``LIMIT`` rows an evenly spaced part of them votes.
    """
    if len(rows) > LIMIT:
        picked = np.linspace(0, len(rows) - 1, LIMIT).astype(np.int64)
        rows, given = rows[picked], given[picked]
    centre = rows.mean(axis=0)
    known = _unit(rows - centre)
    k = min(k, len(rows))
    out = np.empty((len(asked), classes))
    for at in range(0, len(asked), 1024):
        alike = _unit(asked[at : at + 1024] - centre) @ known.T
        near = np.argpartition(-alike, k - 1, axis=1)[:, :k]
        weight = np.exp((np.take_along_axis(alike, near, 1) - 1) * sharpness)
        place = np.arange(len(alike))[:, None] * classes + given[near]
        sums = np.bincount(place.ravel(), weight.ravel(), minlength=len(alike) * classes).reshape(-1, classes)
        out[at : at + 1024] = sums + 0.05 * sums.sum(axis=1, keepdims=True) / classes + 1e-12
    found: NDArray[np.float64] = out / out.sum(axis=1, keepdims=True)
    return found


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return found


def fit(
    rows: NDArray[np.float32], given: NDArray[np.int64], classes: int, *, strength: float = 1.0, steps: int = 200
) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """Multinomial logistic regression on standardized features; gives a function from rows to probabilities.

    Source of the method: accelerated gradient descent, Nesterov 1983, with a restart where the loss grows
    (O'Donoghue and Candes 2015). The step is the inverse of a bound of the curvature (Boehning 1992).
    """
    centre, scale = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(scale > 1e-6, scale, np.inf)  # a feature that never changes says nothing
    x = _standard(rows, centre, scale)
    n = len(x)
    target = np.zeros((n, classes), np.float32)
    target[np.arange(n), given] = 1
    penalty = 1.0 / (strength * n)
    bound = 0.5 * _largest(x) / n + penalty
    weights = np.zeros((x.shape[1], classes), np.float32)
    ahead, pace, last = weights, 1.0, np.inf
    for _ in range(steps):
        guess = _softmax(x @ ahead)
        loss = -float(np.log(np.maximum(guess[np.arange(n), given], 1e-12)).mean())
        loss += 0.5 * penalty * float((ahead * ahead).sum())
        if loss > last:
            ahead, pace = weights, 1.0
            last = np.inf
            continue
        if last - loss < 1e-6:
            break
        slope = x.T @ (guess - target) / n + penalty * ahead
        slope[-1] -= penalty * ahead[-1]  # the constant is not held back
        fresh = np.asarray(ahead - slope / bound, np.float32)
        quicker = (1 + np.sqrt(1 + 4 * pace * pace)) / 2
        ahead = np.asarray(fresh + (pace - 1) / quicker * (fresh - weights), np.float32)
        weights, pace, last = fresh, quicker, loss
    return lambda more: _softmax(_standard(more, centre, scale) @ weights).astype(np.float64)


def _standard(
    rows: NDArray[np.float32], centre: NDArray[np.float32], scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.empty((len(rows), rows.shape[1] + 1), np.float32)
    found[:, :-1] = (rows - centre) / scale
    found[:, -1] = 1
    return found


def _largest(x: NDArray[np.float32], rounds: int = 20) -> float:
    """The largest eigenvalue of ``x.T @ x``, by power iteration, a little upwards to be safe."""
    vector = np.random.default_rng(0).normal(size=(x.shape[1], 1)).astype(np.float32)
    value = 1.0
    for _ in range(rounds):
        vector = np.asarray(x.T @ (x @ (vector / max(float(np.linalg.norm(vector)), 1e-12))), np.float32)
        value = float(np.linalg.norm(vector))
    return 1.1 * max(value, 1e-12)


def _softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    found: NDArray[np.float32] = raised / raised.sum(axis=1, keepdims=True)
    return found
