"""Confident learning: thresholds and joint by hand, and planted errors on real digits."""

import numpy as np
import pytest
from numpy.typing import NDArray

from loopworks.core.errors import Invalid
from loopworks.data.clean import confident, folds

# Six items of two classes; the last one, given as class 0, is surely of class 1.
GIVEN = np.array([0, 0, 0, 1, 1, 0])
SURE = np.array([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.2, 0.8], [0.1, 0.9], [0.1, 0.9]])


def test_a_threshold_is_the_mean_probability_of_the_class_over_its_items() -> None:
    assert confident.thresholds(GIVEN, SURE) == pytest.approx([(0.9 + 0.8 + 0.9 + 0.1) / 4, 0.85])
    assert confident.thresholds(np.array([0]), np.array([[1.0, 0.0]]))[1] == np.inf


def test_the_joint_counts_confident_items_and_sums_to_all() -> None:
    # By hand: items 0, 1, 2 count as (0, 0), 4 as (1, 1), 5 as (0, 1); 3 reaches no threshold.
    assert confident.joint(GIVEN, SURE) == pytest.approx(np.array([[3.0, 1.0], [0.0, 2.0]]))


def test_the_wrong_label_is_found_with_the_class_that_it_should_be() -> None:
    found = confident.suspects(GIVEN, SURE)
    assert (found.at.tolist(), found.suggested.tolist()) == ([5], [1])
    assert found.score[0] == pytest.approx((0.1 - 0.9 + 1) / 2)
    assert confident.suspects(GIVEN, SURE, "confidence").score[0] == pytest.approx(0.1)


def test_labels_that_the_model_agrees_with_are_left_alone() -> None:
    assert len(confident.suspects(np.array([0, 0, 1, 1]), np.eye(2)[[0, 0, 1, 1]]).at) == 0


def test_shapes_that_do_not_fit_and_unknown_ranks_are_refused() -> None:
    with pytest.raises(Invalid, match="probabilities must be of shape"):
        confident.joint(GIVEN, SURE[:2])
    with pytest.raises(Invalid, match="rank must be margin or confidence"):
        confident.suspects(GIVEN, SURE, "luck")


def planted(
    truth: NDArray[np.int64], classes: int, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    wrong = rng.choice(len(truth), int(share * len(truth)), replace=False)
    given = truth.copy()
    given[wrong] = (given[wrong] + rng.integers(1, classes, len(wrong))) % classes
    return given, wrong


def test_most_of_the_planted_errors_are_found_in_heaps_that_overlap_a_little() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(600) % 3
    rows = (np.eye(3)[truth] @ rng.normal(0, 1, (3, 10)) * 2 + rng.normal(0, 1, (600, 10))).astype(np.float32)
    given, wrong = planted(truth, 3, 0.08, 1)
    found = confident.suspects(given, folds.out_of_fold(rows, given, 3))
    hit = np.isin(found.at, wrong)
    assert hit.mean() >= 0.8
    assert hit.sum() / len(wrong) >= 0.8


@pytest.mark.train  # scikit-learn brings the digits
@pytest.mark.parametrize("share", [0.05, 0.1])
def test_precision_and_recall_on_digits(share: float) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows, truth = (digits.data / 16).astype(np.float32), digits.target.astype(np.int64)
    precision, recall = [], []
    for seed in range(3):
        given, wrong = planted(truth, 10, share, seed)
        found = confident.suspects(given, folds.out_of_fold(rows, given, 10, seed=seed))
        hit = np.isin(found.at, wrong)
        precision.append(hit.mean())
        recall.append(hit.sum() / len(wrong))
    assert min(precision) >= 0.88  # measured: 0.92 to 0.97
    assert min(recall) >= 0.75  # measured: 0.80 to 0.92


def test_the_same_seed_gives_the_same_probabilities_and_groups_stay_together() -> None:
    rng = np.random.default_rng(0)
    rows, given = rng.normal(size=(60, 4)).astype(np.float32), np.arange(60) % 2
    groups = np.arange(60) // 3
    first = folds.out_of_fold(rows, given, 2, seed=3)
    assert (first == folds.out_of_fold(rows, given, 2, seed=3)).all()
    assert first.sum(axis=1) == pytest.approx(np.ones(60))
    fold = folds.spread(given, 5, 0, groups)
    assert all(len(set(fold[groups == group])) == 1 for group in range(20))


def test_one_fold_is_refused() -> None:
    with pytest.raises(Invalid, match="folds must be 2 or more"):
        folds.out_of_fold(np.zeros((4, 1), np.float32), np.zeros(4, np.int64), 1, folds=1)
