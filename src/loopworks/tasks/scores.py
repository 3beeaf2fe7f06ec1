"""Scoring shared by task kinds: bootstrap intervals over items."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from loopworks.core.errors import Invalid
from loopworks.core.values import Score

Metric = Callable[[NDArray[np.intp]], float]


def bootstrap(metric: Metric, count: int, *, seed: int = 0, rounds: int = 1000) -> Score:
    """A metric with its 95 % percentile bootstrap interval.

    Args:
        metric: takes positions of items, shape ``(any,)``, and gives the value on them.
        count: how many items there are.
        seed: of the resampling.
        rounds: resamples; 1,000 gives an interval end to about 0.3 percentage points; 0 gives the value alone
            (an interval of no width), for curves that are drawn while a model learns.
    Raises: Invalid: no items.
    Source: Efron 1979, "Bootstrap methods: another look at the jackknife".
    """
    if count < 1:
        raise Invalid("items to score", "at least one", 0, "label some items of that split first")
    value = metric(np.arange(count))
    if rounds == 0:
        return Score(value=value, low=value, high=value, count=count)
    rng = np.random.default_rng(seed)
    draws = [metric(rng.integers(0, count, count)) for _ in range(rounds)]
    low, high = np.quantile(np.asarray(draws), (0.025, 0.975))
    # Resampling loses rare classes, so a mean over classes may lie outside its own percentiles on few items.
    value = metric(np.arange(count))
    return Score(value=value, low=min(float(low), value), high=max(float(high), value), count=count)


def macro_f1(truth: NDArray[np.bool_], given: NDArray[np.bool_]) -> float:
    """Mean F1 over the classes that occur in ``truth`` or ``given``; both of shape ``(items, classes)``."""
    hits = (truth & given).sum(axis=0)
    total = truth.sum(axis=0) + given.sum(axis=0)
    seen = total > 0
    return float((2 * hits[seen] / total[seen]).mean()) if seen.any() else 1.0
