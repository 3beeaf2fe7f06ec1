"""The samplers pick what they say they pick."""

import numpy as np
import pytest

from loopworks.core.registry import plugins
from loopworks.label.samplers import DiverseSampler, RandomSampler, UncertainSampler


def test_uncertain_takes_the_least_sure_first() -> None:
    unsure = np.array([0.1, 0.9, 0.5, 0.7])
    at = UncertainSampler().pick(unsure, np.zeros((4, 2), np.float32), 3, seed=0)
    assert at.tolist() == [1, 3, 2]


def test_uncertain_breaks_ties_by_seed_and_not_by_position() -> None:
    unsure = np.zeros(50)
    picks = {tuple(UncertainSampler().pick(unsure, np.zeros((50, 1), np.float32), 5, seed=s)) for s in range(5)}
    assert len(picks) == 5


def test_diverse_takes_one_of_each_group_where_uncertain_takes_one_group_only() -> None:
    # Two groups of look-alikes; the left one is a little more uncertain throughout.
    features = np.array([[0.0, 0.0]] * 10 + [[1.0, 1.0]] * 10, np.float32)
    unsure = np.array([0.9] * 10 + [0.8] * 10)
    diverse = DiverseSampler(width=10).pick(unsure, features, 2, seed=0)
    plain = UncertainSampler().pick(unsure, features, 2, seed=0)
    assert sorted(at // 10 for at in diverse) == [0, 1]
    assert [at // 10 for at in plain] == [0, 0]


def test_diverse_never_picks_an_item_twice_among_equal_items() -> None:
    at = DiverseSampler().pick(np.ones(40), np.zeros((40, 3), np.float32), 9, seed=1)
    assert len(set(at.tolist())) == 9


def test_random_picks_every_item_about_equally_often() -> None:
    hits = np.zeros(10)
    for seed in range(2000):
        hits[RandomSampler().pick(np.zeros(10), np.zeros((10, 1), np.float32), 3, seed=seed)] += 1
    # Expected 600 each, standard deviation 20.5.
    assert hits.min() > 510
    assert hits.max() < 690


@pytest.mark.parametrize("name", ["label.random", "label.uncertain", "label.diverse"])
@pytest.mark.parametrize(("count", "items"), [(5, 3), (5, 0), (1, 1)])
def test_more_than_there_are_gives_all_of_them_once(name: str, count: int, items: int) -> None:
    at = plugins.get(name)().pick(np.zeros(items), np.zeros((items, 2), np.float32), count, seed=0)
    assert sorted(at.tolist()) == list(range(min(count, items)))
