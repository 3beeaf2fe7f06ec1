"""Task kinds that say what a label is before models can be trained for them."""

from typing import Any

import numpy as np
import pytest

from loopworks.core import mask
from loopworks.core.contracts import Task, learnable
from loopworks.core.errors import Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema, Shape, dump
from loopworks.tasks.regions import Regions

SCHEMA = LabelSchema(classes=("car", "sign"))
BOX = Shape(label="car", kind="box", points=((1.0, 2.0, 30.0, 20.0),))
SHAPES = (
    BOX,
    Shape(label="sign", kind="polygon", points=((2.0, 2.0, 20.0, 2.0, 9.0, 30.0),)),
    Shape(label="sign", kind="obb", points=((2.0, 2.0, 20.0, 2.0, 20.0, 9.0, 2.0, 9.0),)),
    Shape(label="car", kind="ellipse", points=((20.0, 20.0, 9.0, 4.0, 30.0),)),
    Shape(label="car", kind="polyline", points=((1.0, 1.0, 30.0, 9.0),)),
    Shape(label="car", kind="points", points=((5.0, 5.0),)),
    Shape(label="car", kind="mask", points=((40.0, 50.0),), mask=mask.encode(np.ones((40, 50), np.bool_))),
    Shape(label="", kind="caption", attributes=dump({"text": "a street"})),
)


def task(name: str) -> Task:
    found: Task = plugins.get(f"task.{name}")
    return found


@pytest.mark.parametrize("name", ["object-detection", "semantic-segmentation"])
def test_places_are_labels_in_their_order_without_repetitions(name: str) -> None:
    assert task(name).check([*SHAPES[::-1], BOX], SCHEMA) == SHAPES[::-1]
    assert task(name).check([], SCHEMA) == ()


def test_a_place_in_space_is_kept_beside_those_in_the_picture() -> None:
    value = Shape(label="car", kind="value", attributes='{"depth":3.5}')
    assert task("object-detection").check([BOX, value], SCHEMA) == (BOX, value)
    with pytest.raises(NotFound, match="class 'bus' does not exist"):
        task("object-detection").check([Shape(label="bus")], SCHEMA)


def test_a_place_may_be_of_no_class_and_a_class_may_not() -> None:
    place = Shape(label="", kind="box", points=((1.0, 2.0, 3.0, 4.0),))
    assert task("object-detection").check([place, BOX], SCHEMA) == (place, BOX)
    with pytest.raises(NotFound):
        task("object-detection").check([Shape(label="")], SCHEMA)


@pytest.mark.parametrize("shape", SHAPES[:-1], ids=[shape.kind for shape in SHAPES[:-1]])
def test_each_kind_of_shape_is_drawn(shape: Shape) -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    drawn = task("object-detection").draw(image, [shape])
    assert drawn.shape == (7 * 40, 7 * 50, 3)  # a tiny picture is drawn larger
    assert drawn[:, : 7 * 45].any()
    assert not image.any()


@pytest.mark.parametrize("name", ["text-classification", "tabular-classification"])
def test_a_text_has_one_class_and_no_box(name: str) -> None:
    assert task(name).check([Shape(label="car")], SCHEMA) == (Shape(label="car"),)
    for shapes in ([], [Shape(label="car"), Shape(label="sign")], [BOX]):
        with pytest.raises(Invalid):
            task(name).check(shapes, SCHEMA)
    with pytest.raises(Invalid, match="item to draw must be an image"):
        task(name).draw(np.zeros((4, 4, 3), np.uint8), [])


@pytest.mark.parametrize("value", ["3", True, None])
def test_a_row_has_one_number(value: Any) -> None:
    kind = task("tabular-regression")
    good = Shape(label="", kind="value", attributes=dump({"value": 2.5}))
    assert kind.check([good], SCHEMA) == (good,)
    with pytest.raises(Invalid, match="value of a row must be a number"):
        kind.check([Shape(label="", kind="value", attributes=dump({"value": value}))], SCHEMA)
    with pytest.raises(Invalid, match="label of a row must be one value"):
        kind.check([good, Shape(label="", kind="value", attributes=dump({"value": 3.5}))], SCHEMA)


def test_a_task_kind_that_knows_labels_alone_says_that_it_cannot_be_trained() -> None:
    assert learnable(task("image-classification")).headline == "accuracy"
    with pytest.raises(Invalid, match="task kind must be one that models can be trained for; got places"):
        learnable(Regions("places", frozenset({"box"})))


def test_the_name_of_a_mask_stands_in_it() -> None:
    """A mask like a U, whose middle is not in it: the first color, a red, is that of the tag."""
    pixels = np.zeros((200, 300), np.bool_)
    pixels[20:180, 20:60] = pixels[20:180, 240:280] = pixels[150:180, 20:280] = True
    shape = Shape(label="car", kind="mask", points=((200.0, 300.0),), mask=mask.encode(pixels))
    drawn = task("object-detection").draw(np.zeros((200, 300, 3), np.uint8), [shape])
    rows, columns = np.nonzero((drawn == (230, 57, 70)).all(axis=2))
    assert 60 <= rows.min() <= rows.max() <= 110
    assert 200 < columns.min() <= columns.max() < 290
