"""The area under the ROC curve: by hand, and equal to scikit-learn's on any sample of the items."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from loopworks.core.values import LabelSchema
from loopworks.tasks.classes import Classes
from loopworks.tasks.scores import auc, score

pytestmark = pytest.mark.train


def test_auc_by_hand() -> None:
    """Of the four pairs of a right and a wrong item three are in order and one is a tie: 3.5 of 4."""
    metric = auc(np.array([0.9, 0.4, 0.4, 0.1]), np.array([True, True, False, False]))
    assert metric(np.arange(4)) == 3.5 / 4
    assert metric(np.array([0, 1])) == 0.5  # one side alone


@given(st.integers(0, 2**32 - 1))
def test_auc_is_that_of_scikit_learn_on_any_sample(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(4, 60))
    scores, truth = rng.integers(0, 8, count) / 7, rng.random(count) < 0.4
    at = rng.integers(0, count, count)
    if truth[at].all() or not truth[at].any():
        assert auc(scores, truth)(at) == 0.5
    else:
        assert auc(scores, truth)(at) == pytest.approx(roc_auc_score(truth[at], scores[at]), abs=1e-12)


def test_rows_are_judged_by_auc_and_log_loss() -> None:
    """One of two classes each: AUC 1, chance of the truth 0.8 and 0.6 twice, so log loss -(ln .8 + 2 ln .6) / 3."""
    task, schema = Classes("tabular-classification", "row", headline="auc"), LabelSchema(classes=("no", "yes"))
    truth = np.array([[1, 0], [0, 1], [0, 1]], np.float32)
    given_ = {"scores": np.array([[0.8, 0.2], [0.4, 0.6], [0.4, 0.6]], np.float32)}
    found = score(task, truth, given_, schema, rounds=0)
    assert found["auc"].value == 1.0
    assert found["log_loss"].value == pytest.approx(-(np.log(0.8) + 2 * np.log(0.6)) / 3, rel=1e-6)
    assert list(found) == ["auc", "accuracy", "macro_f1", "log_loss"]
