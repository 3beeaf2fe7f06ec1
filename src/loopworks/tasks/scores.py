"""Scoring shared by task kinds: metrics on any of the items, and bootstrap intervals over items."""

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Arrays, Learnable, Metric
from loopworks.core.errors import Invalid
from loopworks.core.values import LabelSchema, Score

LOWER = frozenset({"rmse", "mae", "log_loss"})
"""Metrics of which less is better; all others are better high."""


def score(
    task: Learnable,
    targets: NDArray[np.generic],
    outputs: Arrays,
    schema: LabelSchema,
    *,
    seed: int = 0,
    rounds: int = 1000,
) -> dict[str, Score]:
    """The task kind's metrics with 95 % intervals.

    Args:
        task: gives the metrics.
        targets: the truth, as ``task.targets`` made it.
        outputs: a model's answers for the same items in the same order.
        schema: the classes.
        seed: of the resampling: two models scored with one seed meet the same samples.
        rounds: resamples; 0 gives the values alone (intervals of no width).
    Raises: Invalid: no items, or answers that are not of these items.
    """
    count = len(targets)
    if count < 1:
        raise Invalid("items to score", "at least one", 0, "label some items of that split first")
    found = task.metrics(targets, outputs, schema)
    return {name: bootstrap(metric, count, seed=seed, rounds=rounds) for name, metric in found.items()}


def headline(task: Learnable, targets: NDArray[np.generic], outputs: Arrays, schema: LabelSchema) -> float:
    """The metric that the task kind is judged by, on all items."""
    if not len(targets):
        raise Invalid("items to score", "at least one", 0, "label some items of that split first")
    return task.metrics(targets, outputs, schema)[task.headline](np.arange(len(targets)))


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


def auc(scores: NDArray[np.floating], truth: NDArray[np.bool_]) -> Metric:
    """Area under the ROC curve of one class against the rest, as a metric on any of the items.

    Args:
        scores: higher is more likely of the class, shape ``(items,)``.
        truth: whether the item is of the class, same shape.
    Returns: takes positions of items; ties count one half; 0.5 where either side is missing among them.
    Source: Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve".
    """
    _, group = np.unique(scores, return_inverse=True)
    groups = int(group.max()) + 1 if len(group) else 0

    def at(places: NDArray[np.intp]) -> float:
        up = np.bincount(group[places[truth[places]]], minlength=groups)
        down = np.bincount(group[places[~truth[places]]], minlength=groups)
        ups, downs = int(up.sum()), int(down.sum())
        if not ups or not downs:
            return 0.5
        below = np.cumsum(down) - down
        return float((up * (below + 0.5 * down)).sum() / (ups * downs))

    return at
