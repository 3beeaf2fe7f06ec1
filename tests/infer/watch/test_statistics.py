"""Tests of two samples against scipy's, against values worked out by hand, and against chance."""

import math

import numpy as np
import pytest

from loopworks.core.errors import Invalid
from loopworks.infer.watch import statistics


@pytest.mark.train  # which brings scipy
def test_the_chi_squared_tail_is_scipys() -> None:
    from scipy.stats import chi2

    for freedom in (1, 2, 5, 30, 200):
        for value in (0.0, 0.1, 1.0, 3.84, 20.0, 250.0):
            ours = statistics.chi2_tail(value, freedom)
            assert ours == pytest.approx(chi2.sf(value, freedom), rel=1e-9, abs=1e-300), (freedom, value)


@pytest.mark.train
def test_kolmogorov_smirnov_is_scipys() -> None:
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(0)
    for n, m, shift in ((50, 80, 0.0), (400, 300, 0.3), (1_000, 500, 0.1), (60, 60, 2.0)):
        first, second = rng.normal(0, 1, n), rng.normal(shift, 1, m)
        value, p = statistics.ks(first, second)
        theirs = ks_2samp(first, second, method="exact")
        assert value == pytest.approx(theirs.statistic)
        assert p == pytest.approx(theirs.pvalue, rel=0.2, abs=0.01)


@pytest.mark.train
def test_chi_squared_of_two_lists_of_counts_is_scipys() -> None:
    from scipy.stats import chi2_contingency

    first, second = {"a": 40, "b": 60, "c": 30}, {"a": 80, "b": 30, "c": 20}
    value, p = statistics.chi2(first, second)
    table = [[40, 60, 30], [80, 30, 20]]
    found = chi2_contingency(table, correction=False)
    assert [value, p] == pytest.approx([found.statistic, found.pvalue])


def test_rare_categories_are_counted_together() -> None:
    common = {"a": 500, "b": 500}
    rare = {f"r{n}": 1 for n in range(40)}
    _, p = statistics.chi2({**common, **rare}, common)
    assert p < 1e-6, "forty new values of one item each are a difference"
    value, p = statistics.chi2({"a": 30, "x": 1}, {"a": 40})
    assert (value, p) == (0.0, 1.0), "one item is none"
    assert statistics.chi2({"a": 3}, {"a": 5}) == (0.0, 1.0)


def test_the_stability_index_by_hand() -> None:
    was, now = np.array([50.0, 50.0]), np.array([80.0, 20.0])
    assert statistics.psi(was, now) == pytest.approx(0.3 * math.log(1.6) - 0.3 * math.log(0.4))
    assert statistics.psi(was, was) == 0
    assert math.isfinite(statistics.psi(np.array([1.0, 0.0]), np.array([0.0, 1.0])))
    with pytest.raises(Invalid):
        statistics.psi(was, np.zeros(2))


def test_bins_hold_about_the_same() -> None:
    values = np.random.default_rng(0).exponential(size=1_000)
    counts = statistics.binned(values, statistics.edges(values))
    assert counts.sum() == 1_000
    assert counts.min() >= 99
    assert len(statistics.edges(np.zeros(100))) == 1


def test_mmd_tells_what_no_single_column_does_and_keeps_its_level() -> None:
    rng = np.random.default_rng(1)
    both = rng.normal(size=(400, 1))
    tied = np.concatenate([both, both + 0.3 * rng.normal(size=(400, 1))], axis=1).astype(np.float32)
    apart = np.stack([rng.permutation(tied[:, 0]), rng.permutation(tied[:, 1])], axis=1)
    assert statistics.mmd(tied, apart, permutations=199)[1] == 1 / 200, "the columns alone are the same"
    chances = [
        statistics.mmd(
            rng.normal(size=(60, 3)).astype(np.float32), rng.normal(size=(60, 3)).astype(np.float32), permutations=99
        )[1]
        for _ in range(60)
    ]
    assert sum(p <= 0.1 for p in chances) <= 14  # 6 expected, standard deviation 2.3


def test_the_unbiased_mmd_by_hand() -> None:
    first, second = np.array([[0.0], [1.0]], np.float32), np.array([[2.0], [3.0]], np.float32)
    # squared distances: 1 within; 4, 9, 1, 4 across; the median of 1, 1, 1, 4, 4, 9 is 2.5
    within = 2 * math.exp(-1 / 2.5)
    across = 2 * (math.exp(-4 / 2.5) + math.exp(-9 / 2.5) + math.exp(-1 / 2.5) + math.exp(-4 / 2.5)) / 4
    assert statistics.mmd(first, second, permutations=9)[0] == pytest.approx(within - across)


def test_the_exact_test_of_shares_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    first, second = np.array([0, 3, 40, 7, 60]), np.array([0, 9, 10, 1, 30])
    place, found = statistics.shares(first, 60, second, 30)
    for a, b, p in zip(first, second, found, strict=True):
        table = [[b, 30 - b], [a, 60 - a]]
        tails = [stats.fisher_exact(table, alternative=side).pvalue for side in ("less", "greater")]
        assert p == pytest.approx(min(1.0, 2 * min(tails)), rel=1e-9)
    assert place == int(found.argmin()) == 1


def test_holms_correction_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]
    assert statistics.holm([], 0.05) == []


def test_wilsons_interval_is_the_published_one() -> None:
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I: 81 of 263
    assert list(statistics.wilson(81, 263)) == pytest.approx([0.2553, 0.3662], abs=1e-4)
    assert statistics.wilson(0, 0) == (0.0, 1.0)


def test_the_nearest_by_hand() -> None:
    points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]], np.float32)
    assert statistics.nearest(points, points, is_same=True).tolist() == pytest.approx([1, math.sqrt(18), 1])
