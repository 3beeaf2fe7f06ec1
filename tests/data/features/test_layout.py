"""The map: alike rows together, the same again, and few rows are no fault."""

import numpy as np
import pytest

from loopworks.data.features import layout


def test_heaps_stay_heaps() -> None:
    rng = np.random.default_rng(0)
    group = np.arange(300) % 3
    rows = (np.eye(3)[group] @ rng.normal(0, 5, (3, 20)) + rng.normal(0, 1, (300, 20))).astype(np.float32)
    place = layout.lay_out(rows, seed=1)
    apart = ((place[:, None] - place[None]) ** 2).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (group[apart.argmin(axis=1)] == group).mean() > 0.95
    assert (place == layout.lay_out(rows, seed=1)).all()
    assert place.min() == 0
    assert place.max() == pytest.approx(1)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_few_rows_have_places(count: int) -> None:
    place = layout.lay_out(np.arange(count * 4, dtype=np.float32).reshape(count, 4))
    assert place.shape == (count, 2)
    assert np.isfinite(place).all()


def test_equal_rows_are_no_fault() -> None:
    assert np.isfinite(layout.lay_out(np.ones((40, 6), np.float32))).all()


def test_the_first_direction_is_the_widest() -> None:
    rows = np.array([[0, 0], [10, 1], [20, 0], [30, 1]], np.float32)
    assert layout.project(rows, 1)[:, 0] == pytest.approx([-15, -5, 5, 15], abs=0.6)
