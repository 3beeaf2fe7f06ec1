"""Faults of shapes, and clipping."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopworks.core import mask
from loopworks.core.values import Shape
from loopworks.data.clean import boxes
from loopworks.data.clean.boxes import clip, faults


def box(x: float, y: float, w: float, h: float, label: str = "car") -> Shape:
    return Shape(label=label, kind="box", points=((x, y, w, h),))


def kinds(*shapes: Shape) -> list[tuple[str, int]]:
    return [(fault.kind, fault.at) for fault in faults(shapes, 100, 80)]


def test_each_fault_is_named() -> None:
    assert kinds(box(10, 10, 20, 20)) == []
    assert kinds(box(90, 10, 20, 20)) == [("outside", 0)]
    assert kinds(box(200, 10, 20, 20)) == [("beyond", 0)]
    assert kinds(box(10, 10, 0, 20)) == [("empty", 0)]
    assert kinds(box(10, 10, 2, 20)) == [("tiny", 0)]
    assert kinds(box(10, 10, 20, 20), box(10, 10.5, 20, 20)) == [("double", 1)]
    assert kinds(box(10, 10, 20, 20), box(10, 10, 20, 20, "bus")) == [("clash", 1)]


def test_a_box_that_stands_over_by_less_than_half_a_pixel_is_sound() -> None:
    assert kinds(box(-0.4, 0, 100.4, 80)) == []


def test_masks_are_judged_by_their_pixels() -> None:
    pixels = np.zeros((80, 100), np.bool_)
    empty = Shape(label="car", kind="mask", points=((80, 100),), mask=mask.encode(pixels))
    pixels[10:30, 10:30] = True
    full = Shape(label="car", kind="mask", points=((80, 100),), mask=mask.encode(pixels))
    other = Shape(label="car", kind="mask", points=((40, 50),), mask=mask.encode(pixels[:40, :50]))
    assert kinds(empty) == [("empty", 0)]
    assert kinds(full) == []
    assert kinds(full, full) == [("double", 1)]
    assert kinds(other) == [("outside", 0)]


def test_lines_and_points_have_no_area_to_miss() -> None:
    assert kinds(Shape(label="lane", kind="polyline", points=((0, 5, 90, 5),))) == []


def test_overlap_is_that_of_hand() -> None:
    assert boxes.overlap((0, 0, 2, 2), (1, 0, 2, 2)) == pytest.approx(2 / 6)
    assert boxes.overlap((0, 0, 1, 1), (5, 5, 1, 1)) == 0


def test_a_polygon_is_cut_at_the_edge() -> None:
    cut = clip(Shape(label="car", kind="polygon", points=((-10, 0, 10, 0, 10, 10, -10, 10),)), 100, 80)
    assert cut is not None
    assert boxes.area(cut) == pytest.approx(100)
    assert clip(Shape(label="car", kind="polygon", points=((-10, 0, -5, 0, -5, 9),)), 100, 80) is None


@settings(max_examples=60, deadline=None)
@given(st.tuples(*(st.floats(-50, 150) for _ in range(2)), *(st.floats(0, 120) for _ in range(2))))
def test_what_is_clipped_lies_inside(row: tuple[float, float, float, float]) -> None:
    cut = clip(box(*row), 100, 80)
    if cut is not None:
        x, y, w, h = cut.points[0]
        assert x >= 0
        assert y >= 0
        assert x + w <= 100 + 1e-9
        assert y + h <= 80 + 1e-9
        assert [fault.kind for fault in faults([cut], 100, 80) if fault.kind in ("outside", "beyond")] == []
