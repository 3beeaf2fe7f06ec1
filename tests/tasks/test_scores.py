"""Bootstrap intervals cover what they promise; macro F1 is the one of the books."""

import numpy as np
import pytest

from loopworks.core.errors import Invalid
from loopworks.tasks.scores import bootstrap, macro_f1


def test_the_95_percent_interval_covers_the_true_value_about_95_times_in_100() -> None:
    """Right answers of chance 0.8 on 150 items, 400 times: coverage within 0.95 +- 3 standard errors (0.033)."""
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(400):
        right = rng.random(150) < 0.8
        found = bootstrap(lambda at, right=right: float(right[at].mean()), len(right), seed=i, rounds=300)  # type: ignore[misc]
        hits += found.low <= 0.8 <= found.high
    assert 0.917 <= hits / 400 <= 0.983, hits / 400


def test_the_interval_is_as_wide_as_theory_says() -> None:
    """Binomial, p = 0.9, n = 400: 1.96 sqrt(p q / n) = 0.0294 to each side."""
    right = np.arange(400) >= 40
    found = bootstrap(lambda at: float(right[at].mean()), 400)
    assert found.value == 0.9
    assert found.value - found.low == pytest.approx(0.0294, abs=0.004)
    assert found.high - found.value == pytest.approx(0.0294, abs=0.004)


def test_the_value_always_lies_in_its_interval() -> None:
    """Mean over classes on few items: many resamples lose the one class that was wrong."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        truth = np.eye(6, dtype=bool)[rng.integers(0, 6, 7)]
        given = np.eye(6, dtype=bool)[rng.integers(0, 6, 7)]
        found = bootstrap(lambda at, t=truth, g=given: macro_f1(t[at], g[at]), 7, seed=seed, rounds=200)  # type: ignore[misc]
        assert found.low <= found.value <= found.high


def test_the_seed_decides() -> None:
    right = np.arange(50) % 3 > 0
    first, again, other = (bootstrap(lambda at: float(right[at].mean()), 50, seed=s, rounds=200) for s in (1, 1, 2))
    assert first == again
    assert first.value == other.value
    assert (first.low, first.high) != (other.low, other.high)


def test_no_items_are_refused() -> None:
    with pytest.raises(Invalid) as caught:
        bootstrap(lambda at: 1.0, 0)
    assert caught.value.hint == "label some items of that split first"


def test_macro_f1_counts_classes_that_occur_alone() -> None:
    """sklearn.metrics.f1_score(average="macro", labels=those that occur), worked out by hand."""
    truth = np.eye(4, dtype=bool)[[0, 0, 1]]
    given = np.eye(4, dtype=bool)[[0, 1, 2]]
    assert macro_f1(truth, given) == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert macro_f1(np.zeros((2, 4), bool), np.zeros((2, 4), bool)) == 1.0


def test_macro_f1_by_counting_is_that_of_whole_rows() -> None:
    from loopworks.core.registry import plugins
    from loopworks.core.values import LabelSchema
    from loopworks.tasks.scores import macro_f1

    rng = np.random.default_rng(4)
    schema = LabelSchema(classes=tuple("abcdef"))
    targets = np.eye(6, dtype=np.float32)[rng.integers(0, 5, 200)]  # the last class never occurs
    outputs = {"scores": rng.random((200, 6))}
    metric = plugins.get("task.image-classification").metrics(targets, outputs, schema)["macro_f1"]
    given = np.eye(6, dtype=np.bool_)[outputs["scores"].argmax(axis=1)]
    for _ in range(20):
        at = rng.integers(0, 200, 30)
        assert metric(at) == macro_f1(targets[at] > 0.5, given[at])
    assert metric(np.zeros(0, np.intp)) == 1.0
