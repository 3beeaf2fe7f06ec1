"""A refusal names what was hit worst, for every kind of answer; figures worked out by hand."""

import numpy as np
import pytest

from loopworks.core.contracts import learnable
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema
from loopworks.optimize.measure import worst_classes


def test_classes_by_what_they_lost() -> None:
    task = learnable(plugins.get("task.image-classification"))
    schema = LabelSchema(classes=("cat", "dog", "owl"))
    truth = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2, 2]]
    right, wrong = truth.copy(), truth.copy()
    wrong[2:4] = [[1, 0, 0], [0, 1, 0]]  # one dog is taken for a cat
    told = worst_classes(task, schema, truth, {"scores": right}, {"scores": wrong})
    assert [one.split()[0] for one in told.split(", ")] == ["dog", "cat"]
    assert "owl" not in told


def test_things_whose_boxes_moved() -> None:
    task = learnable(plugins.get("task.object-detection"))
    schema = LabelSchema(classes=("car", "bike"))
    from loopworks.core.values import Shape

    def box(label: str, x: float) -> Shape:
        return Shape(label=label, kind="box", points=((x, 10.0, 20.0, 20.0),), source="person", author="me")

    targets = task.targets([[box("car", 10)], [box("bike", 60)]], schema, [(100, 100)] * 2)
    names = {spec.name: spec for spec in task.outputs(schema)}

    def said(moved: float) -> dict[str, np.ndarray]:
        boxes = np.array([[[0.1, 0.1, 0.2, 0.2]], [[0.6 + moved, 0.1, 0.2, 0.2]]], np.float32)
        return {
            "boxes": boxes, "scores": np.full((2, 1), 0.9, np.float32), "classes": np.array([[0], [1]], np.int64)
        }  # fmt: skip

    assert set(said(0)) == set(names)
    told = worst_classes(task, schema, targets, said(0.0), said(0.15))
    assert told == "bike 1.00 to 0.00"


def test_masks_whose_pixels_were_lost() -> None:
    task = learnable(plugins.get("task.semantic-segmentation"))
    schema = LabelSchema(classes=("road", "tree"))
    outputs = [spec.name for spec in task.outputs(schema)]
    truth = np.zeros((1, 8, 8), np.uint8)
    truth[:, 4:] = 1
    worse = truth.copy()
    worse[:, 4:6] = 0  # half of the trees became road: IoU of trees 16/32, of roads 32/48
    given = [
        {name: (values.astype(np.uint8) if "class" in name else np.ones((1, 8, 8), np.float32)) for name in outputs}
        for values in (truth, worse)
    ]
    told = worst_classes(task, schema, truth, given[0], given[1])
    assert told == "tree 1.00 to 0.50, road 1.00 to 0.67"


def test_numbers_that_changed_most() -> None:
    task = learnable(plugins.get("task.tabular-regression"))
    schema = LabelSchema(classes=())
    truth = np.array([[1.0], [2.0], [3.0], [4.0]])
    (output,) = task.outputs(schema)
    before = {output.name: truth.astype(np.float32)}
    after = {output.name: np.array([[1.0], [2.5], [3.0], [9.0]], np.float32)}
    assert worst_classes(task, schema, truth, before, after) == "4 became 9 for 4, 2 became 2.5 for 2"


def test_nothing_is_named_where_nothing_was_lost() -> None:
    task = learnable(plugins.get("task.tabular-regression"))
    truth = np.array([[1.0], [2.0]])
    (output,) = task.outputs(LabelSchema(classes=()))
    same = {output.name: truth}
    assert worst_classes(task, LabelSchema(classes=()), truth, same, same) == ""


pytestmark = pytest.mark.filterwarnings("error")
