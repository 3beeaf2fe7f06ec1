"""Object detection: the contract, and values worked out by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from loopworks.core import mask
from loopworks.core.contracts import Arrays, Learnable, Sizes
from loopworks.core.errors import Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema, Shape, dump
from loopworks.tasks import detection as det
from loopworks.tasks.detection import Detection
from loopworks.tasks.scores import score
from loopworks.testing import TaskContract

SCHEMA = LabelSchema(classes=("cat", "dog", "bird"))
TASK: Detection = plugins.get("task.object-detection")
SIZE = (200, 100)


def box(label: str, x: float, y: float, width: float, height: float, **more: Any) -> Shape:
    return Shape(label=label, kind="box", points=((x, y, width, height),), **more)


def answer(
    *items: Sequence[tuple[str, float, Sequence[float]]], size: tuple[int, int] = SIZE
) -> dict[str, NDArray[Any]]:
    """A model's answer from (class, score, box in pixels)."""
    out: dict[str, NDArray[Any]] = {
        "boxes": np.zeros((len(items), det.MOST, 4), np.float32),
        "scores": np.zeros((len(items), det.MOST), np.float32),
        "classes": np.zeros((len(items), det.MOST), np.int64),
    }
    for at, item in enumerate(items):
        for i, (label, sure, place) in enumerate(item):
            out["boxes"][at, i] = np.asarray(place) / (size[0], size[1], size[0], size[1])
            out["scores"][at, i] = sure
            out["classes"][at, i] = SCHEMA.classes.index(label)
    return out


def truth() -> list[list[Shape]]:
    return [
        [box("cat", 10, 10, 50, 40), box("dog", 100, 20, 60, 60)],
        [box("bird", 0, 0, 20, 10)],
        [],
        [box("dog", 20, 20, 100, 70), box("dog", 150, 50, 40, 40), box("bird", 4, 4, 16, 12)],
        [box("cat", 40, 30, 50, 50)],
        [box("bird", 100, 50, 20, 20)],
    ]


class TestContract(TaskContract):
    def task(self) -> Learnable:
        return TASK

    def schema(self) -> LabelSchema:
        return SCHEMA

    def truth(self) -> Sequence[Sequence[Shape]]:
        return truth()

    def sizes(self) -> Sizes:
        return [SIZE] * 6

    def perfect(self) -> Arrays:
        return answer(*([(shape.label, 1.0, shape.points[0]) for shape in shapes] for shapes in truth()))

    def strangers(self) -> Sequence[Shape]:
        return [box("wolf", 0, 0, 9, 9)]

    def unsure(self) -> Arrays:
        return answer(*[[("cat", 0.5, (0, 0, 100, 50))]] * 6)


def test_targets_are_rows_of_shares_with_the_image_size() -> None:
    crowd = box("dog", 0, 0, 20, 10, attributes=dump({"iscrowd": 1}))
    found = TASK.targets([[box("dog", 20, 10, 100, 50), crowd], []], SCHEMA, [SIZE, (40, 30)])
    assert found.shape == (2, 2, 10)
    np.testing.assert_allclose(found[0, 0], [1, 0.1, 0.1, 0.5, 0.5, 0, 5000, 200, 100, 0])
    np.testing.assert_allclose(found[0, 1], [1, 0, 0, 0.1, 0.1, 1, 200, 200, 100, 0])
    np.testing.assert_allclose(found[1], [[-1, 0, 0, 0, 0, 0, 0, 40, 30, 0]] * 2)


def test_other_shapes_count_by_the_box_around_them_and_notes_do_not() -> None:
    pixels = np.zeros((100, 200), np.bool_)
    pixels[20:40, 50:60] = pixels[20:30, 50:90] = True
    shapes = [
        Shape(label="cat", kind="polygon", points=((0, 0, 100, 0, 0, 50),)),
        Shape(label="cat", kind="obb", points=((50, 10, 60, 20, 50, 30, 40, 20),)),
        Shape(label="cat", kind="ellipse", points=((100, 50, 20, 10, 90),)),
        Shape(label="dog", kind="mask", points=((100, 200),), mask=mask.encode(pixels)),
        Shape(label="dog", kind="polyline", points=((20, 10, 40, 30),)),
        Shape(label="cat"),
        Shape(label="", kind="caption", attributes=dump({"text": "a cat"})),
        Shape(label="", kind="box", points=((1, 1, 5, 5),)),  # something is there, and nobody said what
    ]
    rows = TASK.targets([shapes], SCHEMA, [SIZE])[0]
    px = rows[:, 1:5] * (200, 100, 200, 100)
    np.testing.assert_allclose(
        px, [[0, 0, 100, 50], [40, 10, 20, 20], [90, 30, 20, 40], [50, 20, 40, 20], [20, 10, 20, 20]], atol=1e-4
    )
    np.testing.assert_allclose(rows[:, det.AREA], [2500, 200, np.pi * 200, 500, 400], rtol=1e-6)


def test_boxes_beyond_the_image_are_cut_and_those_of_no_size_left_out_and_both_marked() -> None:
    shapes = [
        box("cat", -50, 50, 100, 100),
        box("dog", 10, 10, 0, 5),
        box("bird", 300, 10, 5, 5),
        box("cat", 1, 1, 9, 9),
    ]
    rows = TASK.targets([shapes], SCHEMA, [SIZE])[0]
    np.testing.assert_allclose(rows[0], [0, 0, 0.5, 0.25, 0.5, 0, 2500, 200, 100, 1])
    assert rows[:, det.LABEL].tolist() == [0, -1, -1, 0]
    assert rows[:, det.MENDED].tolist() == [1, 1, 1, 0]


def test_what_cannot_be_a_target_is_refused() -> None:
    with pytest.raises(NotFound, match="wolf"):
        TASK.targets([[box("wolf", 0, 0, 1, 1)]], SCHEMA, [SIZE])
    with pytest.raises(Invalid, match="sizes of the images must be 1, one per item; got 0"):
        TASK.targets([[]], SCHEMA)
    with pytest.raises(Invalid, match="at least one box; got none"):
        TASK.teachable(TASK.targets([[], []], SCHEMA, [SIZE] * 2), SCHEMA)
    TASK.teachable(TASK.targets([[box("cat", 0, 0, 1, 1)], []], SCHEMA, [SIZE] * 2), SCHEMA)  # one class is enough


def test_an_answer_is_told_in_pixels_where_the_size_is_known() -> None:
    said = answer([("dog", 0.9, (20, 10, 100, 50)), ("cat", 0.4, (0, 0, 10, 10))])
    assert TASK.decode(said, SCHEMA, [(400, 300)]) == [
        {"unit": "px", "labels": [{"label": "dog", "score": 0.9, "box": [40.0, 30.0, 200.0, 150.0]}]}
    ]
    assert TASK.decode(said, SCHEMA)[0] == {
        "unit": "share",
        "labels": [{"label": "dog", "score": 0.9, "box": [0.1, 0.1, 0.5, 0.5]}],
    }
    ((shape, sure),) = TASK.labels(said, SCHEMA, "pets:3", [(400, 300)])[0]
    assert (shape.label, shape.kind, shape.source, shape.author) == ("dog", "box", "model", "pets:3")
    np.testing.assert_allclose(shape.points[0], (40, 30, 200, 150), atol=1e-3)
    assert sure == pytest.approx(0.9)


def test_quality_is_f1_of_the_boxes_meant() -> None:
    labels = [[box("cat", 0, 0, 40, 40), box("dog", 100, 0, 40, 40)], [], [], [box("cat", 0, 0, 10, 10)]]
    targets = TASK.targets(labels, SCHEMA, [SIZE] * 4)
    said = answer(
        # right; right place and wrong class; the first again; too doubtful to be meant
        [
            ("cat", 0.9, (0, 0, 40, 40)),
            ("bird", 0.8, (100, 0, 40, 40)),
            ("cat", 0.7, (0, 0, 40, 38)),
            ("dog", 0.4, (100, 0, 40, 40)),
        ],
        [],
        [("cat", 0.6, (0, 0, 10, 10))],
        [],
    )
    np.testing.assert_allclose(TASK.quality(targets, said, SCHEMA), [2 * 1 / (3 + 2), 1, 0, 0])


def test_a_crowd_is_neither_missed_nor_wrongly_found() -> None:
    labels = [[box("cat", 0, 0, 100, 100, attributes=dump({"iscrowd": 1})), box("cat", 150, 0, 40, 40)]]
    targets = TASK.targets(labels, SCHEMA, [SIZE])
    said = answer([("cat", 0.9, (150, 0, 40, 40)), ("cat", 0.8, (10, 10, 20, 20)), ("cat", 0.7, (40, 10, 20, 20))])
    assert TASK.quality(targets, said, SCHEMA).tolist() == [1.0]
    assert TASK.by_class(targets, said, SCHEMA) == {
        "cat": {"ap": 1.0, "ap50": 1.0, "precision": 1.0, "recall": 1.0, "count": 1.0}
    }


def test_classes_are_judged_by_hand_worked_values() -> None:
    labels = [[box("cat", 0, 0, 40, 40), box("cat", 100, 0, 40, 40), box("dog", 0, 60, 30, 30)]]
    targets = TASK.targets(labels, SCHEMA, [SIZE])
    said = answer([("cat", 0.9, (0, 0, 40, 40)), ("cat", 0.6, (60, 60, 20, 20)), ("cat", 0.3, (100, 0, 40, 40))])
    found = TASK.by_class(targets, said, SCHEMA)
    # Precision 1 up to recall 0.5 (51 of the 101 points), then 2/3.
    assert found["cat"]["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert {name: found["cat"][name] for name in ("precision", "recall", "count")} == {
        "precision": 0.5,
        "recall": 0.5,
        "count": 2.0,
    }
    assert found["dog"] == {"ap": 0.0, "ap50": 0.0, "precision": 0.0, "recall": 0.0, "count": 1.0}
    assert "bird" not in found


def test_agreement_is_the_mean_share_of_boxes_in_common() -> None:
    left = answer([("cat", 0.9, (0, 0, 40, 40)), ("dog", 0.8, (100, 0, 40, 40))], [], [("cat", 0.9, (0, 0, 40, 40))])
    right = answer([("cat", 0.6, (0, 0, 40, 36)), ("dog", 0.45, (100, 0, 40, 40))], [], [("dog", 0.9, (0, 0, 40, 40))])
    assert TASK.agreement(left, right, SCHEMA) == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_uncertainty_is_of_the_most_doubtful_box() -> None:
    said = answer([("cat", 0.9, (0, 0, 9, 9)), ("cat", 0.4, (0, 0, 9, 9))], [("cat", 1.0, (0, 0, 9, 9))], [])
    np.testing.assert_allclose(TASK.uncertainty(said, SCHEMA), [0.8, 0, 0], atol=1e-6)


def test_answers_of_another_model_are_refused() -> None:
    said = answer([("bird", 0.9, (0, 0, 9, 9))])
    with pytest.raises(Invalid, match="'classes' of the model must be 0 to 1; got 2"):
        TASK.decode(said, LabelSchema(classes=("cat", "dog")))
    with pytest.raises(Invalid, match="boxes, scores and classes; got scores"):
        TASK.decode({"scores": said["scores"]}, SCHEMA)
    with pytest.raises(Invalid, match="outputs of the model"):
        TASK.decode({**said, "boxes": said["boxes"][:, :5]}, SCHEMA)
    with pytest.raises(Invalid, match="targets"):
        TASK.metrics(np.zeros((1, 3), np.float32), said, SCHEMA)


def test_scores_come_with_intervals_and_sizes_that_do_not_occur_are_left_out() -> None:
    labels = [[box("cat", 5, 5, 40 + i, 40), box("dog", 100, 20, 50, 50)] for i in range(20)]
    rng = np.random.default_rng(0)
    said = answer(*[
        [
            (shape.label, float(rng.uniform(0.3, 1)), tuple(np.add(shape.points[0], rng.normal(0, 4, 4))))
            for shape in shapes
        ]
        for shapes in labels
    ])
    found = score(TASK, TASK.targets(labels, SCHEMA, [SIZE] * 20), said, SCHEMA)
    assert set(found) == {"map", "map50", "map75", "map_medium"}
    assert 0 < found["map"].low < found["map"].value < found["map"].high < 1
    assert found["map_medium"].value == pytest.approx(found["map"].value)


def test_things_are_drawn() -> None:
    picture = TASK.draw(np.zeros((100, 200, 3), np.uint8), [box("cat", 20, 20, 50, 40)])
    assert picture[20, 40].any()
    assert not picture[40, 45].any()
