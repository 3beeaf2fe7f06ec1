"""Tabular regression: the contract, and values worked out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from loopworks.core.contracts import Arrays, Learnable
from loopworks.core.errors import Invalid
from loopworks.core.values import LabelSchema, Shape, dump
from loopworks.tasks.numbers import Number
from loopworks.tasks.scores import score
from loopworks.testing import TaskContract

TASK, SCHEMA = Number(), LabelSchema()


def number(value: float) -> tuple[Shape, ...]:
    return (Shape(label="", kind="value", attributes=dump({"value": value})),)


def answer(*values: float) -> Arrays:
    return {"value": np.array(values, np.float32)[:, None]}


class TestNumbers(TaskContract):
    values = (1.0, -2.0, 3.5, 100.0, 0.0, 7.25)

    def task(self) -> Learnable:
        return TASK

    def schema(self) -> LabelSchema:
        return SCHEMA

    def truth(self) -> Sequence[Sequence[Shape]]:
        return [number(value) for value in self.values]

    def perfect(self) -> Arrays:
        return answer(*self.values)

    def test_uncertainty_is_between_0_and_1_and_higher_where_nothing_is_known(self) -> None:
        """A point estimate says nothing of its uncertainty: always 0."""
        assert (TASK.uncertainty(self.perfect(), SCHEMA) == 0).all()

    def test_a_picture_is_an_rgb_image(self) -> None:
        """Rows have none."""
        with pytest.raises(Invalid, match="item to draw must be an image"):
            TASK.draw(np.zeros((4, 4, 3), np.uint8), [])


def test_r2_rmse_and_mae_by_hand() -> None:
    """Truth 1 2 3, answers 1 2 5: squared errors 0 0 4, spread 2, so R2 is -1, RMSE sqrt(4/3), MAE 2/3."""
    found = score(TASK, np.array([[1.0], [2.0], [3.0]]), answer(1, 2, 5), SCHEMA, rounds=0)
    assert found["r2"].value == pytest.approx(-1.0)
    assert found["rmse"].value == pytest.approx((4 / 3) ** 0.5)
    assert found["mae"].value == pytest.approx(2 / 3)


@pytest.mark.parametrize("bad", [[[1.0], [float("inf")]], [[1.0], [float("nan")]], [[2.0], [2.0]]])
def test_targets_that_teach_nothing_are_refused(bad: list[list[float]]) -> None:
    with pytest.raises(Invalid, match="target"):
        TASK.teachable(np.array(bad), SCHEMA)
