"""Chances that mean what they say: scores are stretched, or bent by isotonic regression, where it lowers the loss."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.train.tables.graph import Graph

FEWEST_BENT = 1_000
"""Rows below which isotonic regression is not tried: it follows their noise."""
GAIN = 5e-4
"""Share of the log loss that a calibration must save on rows it was not learnt from."""
_LEAST = 1e-15


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Raw scores to chances: ``scale * raw + shift``, the usual link, and of two classes a broken line over that."""

    kind: str = "none"
    scale: float = 1.0
    shift: float = 0.0
    """Of two classes alone."""
    knots: tuple[float, ...] = ()
    heights: tuple[float, ...] = ()

    def chances(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Chances of the classes, shape ``(rows, classes)``; ``raw`` has one column for two classes."""
        scores = self.scale * raw + self.shift
        if raw.shape[1] > 1:
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            return np.asarray(scores / scores.sum(axis=1, keepdims=True))
        yes = 1.0 / (1.0 + np.exp(-scores.clip(-700, 700)))
        if self.knots:
            yes = np.interp(yes, self.knots, self.heights)
        return np.concatenate([1.0 - yes, yes], axis=1)

    def add(self, graph: Graph, raw: str, columns: int) -> str:
        """The same in a graph."""
        scores = graph.node("Mul", raw, graph.constant(np.asarray(self.scale)))
        scores = graph.node("Add", scores, graph.constant(np.asarray(self.shift)))
        if columns > 1:
            return graph.node("Softmax", scores, axis=1)
        yes = graph.node("Sigmoid", scores)
        if self.knots:
            knots, heights = np.asarray(self.knots), np.asarray(self.heights)
            slopes = np.diff(heights) / np.diff(knots)
            turns = np.diff(slopes, prepend=0.0)  # a broken line is a sum of ramps, one from each knot on
            ramps = graph.node("Relu", graph.node("Sub", yes, graph.constant(knots[None, :-1])))
            bent = graph.node("MatMul", ramps, graph.constant(turns[:, None]))
            yes = graph.node("Add", bent, graph.constant(np.asarray(heights[0])))
        no = graph.node("Sub", graph.constant(np.asarray(1.0)), yes)
        return graph.node("Concat", no, yes, axis=1)


def loss(chances: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Mean log loss."""
    return float(-np.log(np.maximum(chances[np.arange(len(truth)), truth], _LEAST)).mean())


def choose(raw: NDArray[np.float64], truth: NDArray[np.int64], seed: int) -> tuple[Calibration, str]:
    """The calibration that lowers the log loss most on rows that it was not learnt from, and a note of what it does.

    Args:
        raw: scores of rows that the model did not learn from, ``(rows, 1)`` for two classes.
        truth: their classes.
        seed: of the cut into halves.
    """
    plain = Calibration()
    if len(truth) < 20 or len(np.unique(truth)) < 2:
        return plain, ""
    half = np.random.default_rng(seed).permutation(len(truth)) % 2 == 0
    ways: dict[str, Any] = {"scale": _stretched}
    if raw.shape[1] == 1 and len(truth) >= FEWEST_BENT and np.bincount(truth).min() >= FEWEST_BENT / 10:
        ways["isotonic"] = _bent
    tried = {"none": loss(plain.chances(raw), truth)}
    for name, learn in ways.items():
        parts = [loss(learn(raw[a], truth[a]).chances(raw[~a]), truth[~a]) * (~a).sum() for a in (half, ~half)]
        tried[name] = sum(parts) / len(truth)
    best = min(tried, key=lambda name: (tried[name], name))
    if tried[best] > tried["none"] * (1 - GAIN):
        return plain, ""
    told = f"chances calibrated ({best}): log loss {tried['none']:.4f} to {tried[best]:.4f} on rows not learnt from"
    return ways[best](raw, truth), told


def _stretched(raw: NDArray[np.float64], truth: NDArray[np.int64]) -> Calibration:
    """Two classes: scale and shift (Platt 1999); more: one temperature (Guo et al. 2017)."""
    from scipy.optimize import minimize

    is_binary = raw.shape[1] == 1

    def made(free: NDArray[np.float64]) -> Calibration:
        return Calibration(kind="scale", scale=float(np.exp(free[0])), shift=float(free[1]) if is_binary else 0.0)

    start = np.zeros(2 if is_binary else 1)
    found = minimize(lambda free: loss(made(free).chances(raw), truth), start, method="Nelder-Mead")
    return made(found.x)


def _bent(raw: NDArray[np.float64], truth: NDArray[np.int64]) -> Calibration:
    """Isotonic regression with its steps joined at their middles, so that different scores stay different.

    Source: Oron, Flournoy 2017, "Centered isotonic regression".
    """
    from sklearn.isotonic import IsotonicRegression

    plain = _stretched(raw, truth)
    chance = plain.chances(raw)[:, 1]
    # One row's worth of doubt at each end: no chance is ever 0 or 1.
    ends, said = np.array([0.0, 1.0]), np.array([0.5 / len(truth), 1 - 0.5 / len(truth)])
    steps = IsotonicRegression(out_of_bounds="clip").fit_transform(chance, truth)
    heights, where, counts = np.unique(steps, return_inverse=True, return_counts=True)
    middles = np.bincount(where, chance) / counts
    keep = (middles > 1e-6) & (middles < 1 - 1e-6)
    knots = np.concatenate([ends[:1], middles[keep], ends[1:]])
    bent = np.concatenate([said[:1], heights[keep].clip(*said), said[1:]])
    far = np.concatenate([[True], np.diff(knots) > 1e-9])
    return Calibration(
        kind="isotonic",
        scale=plain.scale,
        shift=plain.shift,
        knots=tuple(knots[far].tolist()),
        heights=tuple(np.maximum.accumulate(bent[far]).tolist()),
    )
