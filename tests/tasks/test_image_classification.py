"""Image classification, single and multi label: the contract, and values worked out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from loopworks.core.contracts import Arrays, Learnable
from loopworks.core.errors import Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema, Shape
from loopworks.tasks.classes import Classes
from loopworks.tasks.scores import score
from loopworks.testing import TaskContract

SINGLE = LabelSchema(classes=("dog", "cat", "bird"))
MULTI = LabelSchema(classes=("dog", "cat", "bird"), is_multi=True)
TASK = Classes("image-classification", "image")


def labels(*names: str) -> tuple[Shape, ...]:
    return tuple(Shape(label=name) for name in names)


def scores(*rows: Sequence[float]) -> dict[str, NDArray[np.float32]]:
    return {"scores": np.array(rows, np.float32)}


class TestSingleLabel(TaskContract):
    def task(self) -> Learnable:
        return TASK

    def schema(self) -> LabelSchema:
        return SINGLE

    def truth(self) -> Sequence[Sequence[Shape]]:
        return [labels(name) for name in ("dog", "cat", "bird", "dog", "bird", "cat")]

    def perfect(self) -> Arrays:
        return {"scores": np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 2, 1]]}


class TestMultiLabel(TaskContract):
    def task(self) -> Learnable:
        return TASK

    def schema(self) -> LabelSchema:
        return MULTI

    def truth(self) -> Sequence[Sequence[Shape]]:
        return [
            labels("bird", "cat", "dog"),
            labels("cat"),
            labels(),
            labels("bird", "dog"),
            labels("dog"),
            labels("bird"),
        ]

    def perfect(self) -> Arrays:
        return scores([1, 1, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1], [1, 0, 0], [0, 0, 1])


def test_it_is_registered_under_its_name() -> None:
    assert plugins.get("task.image-classification") == TASK


def test_single_label_wants_exactly_one_class() -> None:
    for shapes in (labels(), labels("dog", "cat")):
        with pytest.raises(Invalid, match="label of an image must be exactly one class"):
            TASK.check(shapes, SINGLE)
    assert TASK.check(labels("dog", "dog"), SINGLE) == labels("dog")


def test_an_unknown_class_lists_the_known_ones() -> None:
    with pytest.raises(NotFound) as caught:
        TASK.check(labels("fox"), SINGLE)
    assert caught.value.hint == "known: dog, cat, bird"


def test_targets_are_multi_hot_in_the_schemas_order() -> None:
    assert TASK.targets([labels("cat"), labels()], MULTI).tolist() == [[0, 1, 0], [0, 0, 0]]
    assert TASK.targets([], MULTI).shape == (0, 3)


def test_answers_are_decoded_best_first() -> None:
    (found,) = TASK.decode(scores([0.2, 0.7, 0.1]), SINGLE)
    assert found["chosen"] == ["cat"]
    assert [entry["label"] for entry in found["labels"]] == ["cat", "dog", "bird"]
    assert found["labels"][0]["score"] == pytest.approx(0.7)
    (found,) = TASK.decode(scores([0.6, 0.9, 0.5]), MULTI)
    assert found["chosen"] == ["cat", "dog"], "one half is not above one half"


def test_uncertainty_by_hand() -> None:
    assert TASK.uncertainty(scores([0.7, 0.2, 0.1], [0.4, 0.4, 0.2]), SINGLE) == pytest.approx([0.5, 1.0])
    assert TASK.uncertainty(scores([0.9, 0.1, 0.0], [0.9, 0.6, 0.0]), MULTI) == pytest.approx([0.2, 0.8])
    assert TASK.uncertainty({"scores": np.ones((2, 1), np.float32)}, LabelSchema(classes=("a",))).tolist() == [0, 0]


def test_uncertainty_stays_in_0_to_1_for_scores_that_do_not() -> None:
    for schema in (SINGLE, MULTI):
        found = TASK.uncertainty(scores([1.2, -0.3, 0.1], [5.0, 0.0, 0.0]), schema)
        assert ((found >= 0) & (found <= 1)).all()


def test_accuracy_and_macro_f1_by_hand() -> None:
    """Truth d d c b, answer d c c b: accuracy 3/4; F1 dog 2/3, cat 2/3, bird 1, so macro F1 is 7/9."""
    truth = TASK.targets([labels("dog"), labels("dog"), labels("cat"), labels("bird")], SINGLE)
    found = score(TASK, truth, scores([0.9, 0, 0.1], [0.3, 0.6, 0.1], [0, 1, 0], [0, 0, 1]), SINGLE)
    assert found["accuracy"].value == 0.75
    assert found["macro_f1"].value == pytest.approx(7 / 9)
    assert found["accuracy"].count == 4


def test_multi_label_accuracy_wants_the_whole_set() -> None:
    """Truth {dog, cat} and {}, answer {dog} and {}: half of the sets are right; F1 dog 1, cat 0."""
    truth = TASK.targets([labels("dog", "cat"), labels()], MULTI)
    found = score(TASK, truth, scores([0.9, 0.2, 0.1], [0.1, 0.1, 0.1]), MULTI)
    assert found["accuracy"].value == 0.5
    assert found["macro_f1"].value == 0.5


def test_agreement_by_hand() -> None:
    left = scores([0.9, 0.1, 0], [0.1, 0.9, 0], [0, 0, 1], [0.4, 0.3, 0.3])
    right = scores([0.5, 0.3, 0.2], [0.8, 0.2, 0], [0.1, 0.2, 0.7], [0.2, 0.2, 0.6])
    assert TASK.agreement(left, right, SINGLE) == 0.5


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"logits": np.zeros((2, 3), np.float32)},
        scores([0.5, 0.5]),
        {"scores": np.zeros((2, 1), np.float32)},
        {"scores": np.zeros(3, np.float32)},
    ],
    ids=["none", "other name", "two columns", "one column", "one axis"],
)
def test_an_answer_of_another_model_is_refused(answer: Arrays) -> None:
    """numpy would stretch one column over all classes and count a score that means nothing."""
    with pytest.raises(Invalid, match="output 'scores' of the model must be of shape"):
        score(TASK, np.zeros((2, 3), np.float32), answer, SINGLE)
    with pytest.raises(Invalid, match="output 'scores' of the model must be of shape"):
        TASK.decode(answer, SINGLE)


def test_no_items_cannot_be_scored_or_compared() -> None:
    nothing = {"scores": np.zeros((0, 3), np.float32)}
    with pytest.raises(Invalid, match="items to score must be at least one"):
        score(TASK, np.zeros((0, 3), np.float32), nothing, SINGLE)
    with pytest.raises(Invalid, match="must be of the same items, at least one"):
        TASK.agreement(nothing, nothing, SINGLE)
    assert TASK.decode(nothing, SINGLE) == []
    assert TASK.labels(nothing, SINGLE, "m") == []


def test_the_drawing_puts_the_class_below_the_picture() -> None:
    picture = np.full((200, 600, 3), 90, np.uint8)
    found = TASK.draw(picture, labels("cat"))
    assert (found[:200] == picture).all()
    bar = found[200:]
    assert (bar == 255).any()
    assert (bar < 128).any(), "there must be text"


def test_many_classes_take_several_lines_and_none_is_cut() -> None:
    names = [f"a long name {i}" for i in range(8)]
    found = TASK.draw(np.zeros((16, 16, 3), np.uint8), [Shape(label=name) for name in names])
    assert found.shape[1] == 320
    lines = (found.shape[0] - 320) // 17
    assert lines == 3
    assert (found[320:, -3:] == 255).all()
