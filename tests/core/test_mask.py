"""Masks as run lengths: round trips, faults, and figures worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopworks.core import mask
from loopworks.core.errors import Invalid

SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1), st.floats(0, 1))


def pixels(height: int, width: int, seed: int, share: float) -> "np.ndarray[tuple[int, int], np.dtype[np.bool_]]":
    return np.random.default_rng(seed).random((height, width)) < share


@given(SIZES)
def test_pixels_come_back(size: tuple[int, int, int, float]) -> None:
    found = pixels(*size)
    text = mask.encode(found)
    assert (mask.decode(text, *found.shape) == found).all()
    assert mask.area(text) == found.sum()
    assert mask.pack(mask.unpack(text)) == text


@given(SIZES)
def test_bounds_are_those_of_the_pixels(size: tuple[int, int, int, float]) -> None:
    found = pixels(*size)
    rows, columns = np.nonzero(found)
    box = mask.bounds(mask.encode(found), found.shape[0])
    if not len(rows):
        assert box is None
    else:
        left, top = columns.min(), rows.min()
        assert box == (left, top, columns.max() - left + 1, rows.max() - top + 1)


def test_runs_go_down_the_columns_and_begin_with_zeros() -> None:
    found = np.array([[0, 1], [1, 1]], np.bool_)
    assert mask.runs(found) == [1, 3]
    assert mask.runs(~found) == [0, 1, 3]
    assert mask.encode(found) == "13"


def test_long_runs_and_differences_are_written_as_coco_writes_them() -> None:
    # 100 is 0b00011_00100: low five bits with the continuation bit, then the rest; 40 - 100 = -60 as a difference.
    assert mask.pack([100, 5, 7, 40]) == "T357S1"
    assert mask.unpack("T357S1") == [100, 5, 7, 40]


@pytest.mark.parametrize("text", ["\x10", "T", "é", "11N"], ids=["character", "cut off", "not ASCII", "negative"])
def test_what_is_no_mask_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        mask.decode(text, 4, 4)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(Invalid, match="adding up to 3 x 3 = 9; got 4"):
        mask.decode(mask.encode(np.ones((2, 2), np.bool_)), 3, 3)


def test_a_polygon_covers_the_pixels_whose_centres_it_holds() -> None:
    assert mask.draw([(1, 1, 4, 1, 4, 3, 1, 3)], 5, 6).nonzero()[0].tolist() == [1, 1, 1, 2, 2, 2]
    assert mask.draw([(0, 0, 2, 0, 0, 2)], 3, 3).sum() == 1
    assert mask.draw([(-9, -9, 99, -9, 99, 99, -9, 99)], 3, 4).all()
    assert not mask.draw([(7, 7, 9, 7, 9, 9)], 3, 4).any()
