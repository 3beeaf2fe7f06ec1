"""Semantic segmentation: the contract, values worked out by hand, and the confusion matrices of others."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from loopworks.core import mask
from loopworks.core.contracts import Arrays, Learnable, Pictured, Teaching
from loopworks.core.errors import Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import Kind, LabelSchema, Shape
from loopworks.tasks import scores
from loopworks.tasks import segmentation as task
from loopworks.testing import TaskContract

TASK: Learnable = plugins.get("task.semantic-segmentation")
DENSE = LabelSchema(classes=("road", "sky", "car", "void"))
SPARSE = LabelSchema(classes=("litter", "bin", "leaf"))
GROUND = LabelSchema(classes=("litter", "background", "leaf"))
HEIGHT, WIDTH = 6, 8


def cut(label: str, pixels: NDArray[np.bool_]) -> Shape:
    height, width = pixels.shape
    return Shape(label=label, kind="mask", points=((float(height), float(width)),), mask=mask.encode(pixels))


def maps(count: int = 6, classes: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, classes, (count, HEIGHT, WIDTH)).astype(np.uint8)


def shapes(classes: NDArray[np.uint8], schema: LabelSchema) -> tuple[Shape, ...]:
    return tuple(cut(name, classes == i) for i, name in enumerate(schema.classes) if (classes == i).any())


def answer(classes: NDArray[np.uint8], sure: float = 1.0) -> dict[str, NDArray[np.generic]]:
    """Chances on a grid of half the size."""
    return {"classes": classes, "sure": np.full((len(classes), HEIGHT // 2, WIDTH // 2), sure, np.float32)}


class Masks(TaskContract):
    """Every pixel of six random images."""

    names = DENSE
    nothing = 0
    """What is left uncovered."""

    def task(self) -> Learnable:
        return TASK

    def schema(self) -> LabelSchema:
        return self.names

    def truth(self) -> Sequence[Sequence[Shape]]:
        return [shapes(row, self.names) for row in self._maps()]

    def perfect(self) -> Arrays:
        return answer(self._maps())

    def unsure(self) -> Arrays:
        return answer(np.zeros_like(self._maps()), 1 / len(task.answerable(self.names)))

    def sizes(self) -> Sequence[tuple[int, int]]:
        return [(WIDTH, HEIGHT)] * 6

    def _maps(self) -> NDArray[np.uint8]:
        return maps()


class TestDense(Masks):
    pass


class TestSparse(Masks):
    names = SPARSE

    def _maps(self) -> NDArray[np.uint8]:
        found = maps(classes=4)
        found[found == 3] = task.NOTHING
        return found


def box(label: str, x: float, y: float, width: float, height: float) -> Shape:
    return Shape(label=label, kind="box", points=((x, y, width, height),))


def painted(*said: Shape, schema: LabelSchema = SPARSE, size: tuple[int, int] = (WIDTH, HEIGHT)) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = TASK.targets([said], schema, [size])[0]
    return found


def test_later_shapes_lie_over_earlier_ones() -> None:
    found = painted(box("litter", 0, 0, 8, 3), box("bin", 2, 0, 2, 6))
    wanted = np.full((6, 8), 3, np.uint8)
    wanted[:3] = 0
    wanted[:, 2:4] = 1
    assert (found == wanted).all()
    assert (painted(box("bin", 2, 0, 2, 6), box("litter", 0, 0, 8, 3))[:3] == 0).all()


@pytest.mark.parametrize(
    ("kind", "points", "count"),
    [
        ("box", ((1.0, 1.0, 3.0, 2.0),), 6),
        ("polygon", ((0.0, 0.0, 4.0, 0.0, 4.0, 4.0, 0.0, 4.0), (5.0, 0.0, 8.0, 0.0, 8.0, 2.0, 5.0, 2.0)), 22),
        ("obb", ((4.0, 0.0, 8.0, 3.0, 4.0, 6.0, 0.0, 3.0),), 24),
        ("ellipse", ((4.0, 3.0, 2.0, 2.0, 0.0),), 12),
        ("polyline", ((0.0, 0.0, 8.0, 6.0),), 0),
        ("points", ((3.0, 3.0),), 0),
    ],
)
def test_each_kind_of_shape_covers_its_pixels(kind: Kind, points: tuple[tuple[float, ...], ...], count: int) -> None:
    """Areas by hand: a rhombus of half its box, the 12 pixels whose centres lie within 2 of the middle."""
    found = painted(Shape(label="bin", kind=kind, points=points))
    assert (found == 1).sum() == count


def test_what_no_shape_covers_follows_from_the_classes() -> None:
    assert set(painted(box("litter", 0, 0, 4, 6)).ravel().tolist()) == {0, 3}
    assert set(painted(box("litter", 0, 0, 4, 6), schema=GROUND).ravel().tolist()) == {0, 1}
    found = painted(box("road", 0, 0, 4, 6), box("void", 0, 0, 2, 6), schema=DENSE)
    assert set(found.ravel().tolist()) == {0, task.IGNORED}
    assert (found[:, 2:4] == 0).all()
    assert "nothing" in task.uncovered(SPARSE)
    assert "class background" in task.uncovered(GROUND)
    assert "neither learnt nor scored" in task.uncovered(DENSE)
    assert [task.answerable(schema) for schema in (SPARSE, GROUND, DENSE)] == [(0, 1, 2, 3), (0, 1, 2), (0, 1, 2)]


def test_a_shape_without_a_class_is_not_known() -> None:
    assert (painted(box("", 0, 0, 8, 6)) == task.IGNORED).all()


def test_the_grid_is_that_of_the_median_image_and_not_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [[box("bin", 0, 0, 5, 5)]] * 3
    assert TASK.targets(labels, SPARSE, [(4000, 3000), (4000, 3000), (30, 70)]).shape == (3, 384, 512)
    assert TASK.targets(labels, SPARSE, [(64, 48)] * 3).shape == (3, 48, 64)
    monkeypatch.setattr(task, "ROOM", 3 * 512 * 384 // 4)
    assert TASK.targets(labels, SPARSE, [(4000, 3000)] * 3).shape == (3, 192, 256)


def test_images_of_other_sizes_are_stretched_to_the_grid() -> None:
    half = [box("bin", 0, 0, 50, 300)]
    found = TASK.targets([half, [box("bin", 0, 0, 4, 6)], half], SPARSE, [(100, 300), (8, 6), (100, 300)])
    assert (found[0] == found[1]).all()
    assert (found[1][:, : found.shape[2] // 2] == 1).all()


def test_a_mask_of_half_the_size_is_taken_and_one_of_another_shape_refused() -> None:
    pixels = np.zeros((3, 4), np.bool_)
    pixels[:, :2] = True
    assert (painted(cut("bin", pixels))[:, :4] == 1).all()
    with pytest.raises(
        Invalid, match=r"mask of class 'bin', item 2 must be of the shape of its image \(8 x 6 pixels\)"
    ):
        TASK.targets([[], [cut("bin", np.ones((6, 6), np.bool_))]], SPARSE, [(8, 6), (8, 6)])


def test_too_many_classes_are_refused() -> None:
    with pytest.raises(Invalid, match="at most 254"):
        TASK.targets([], LabelSchema(classes=tuple(f"class {i}" for i in range(255))))


def test_an_unknown_class_is_refused_also_of_the_whole_image() -> None:
    with pytest.raises(NotFound):
        TASK.targets([[Shape(label="nope")]], SPARSE, [(8, 6)])


@pytest.mark.parametrize("said", [[], [box("litter", 0, 0, 8, 6)]], ids=["nothing", "one class"])
def test_labels_of_one_kind_cannot_be_taught(said: list[Shape]) -> None:
    with pytest.raises(Invalid, match="of at least two classes"):
        TASK.teachable(TASK.targets([said], SPARSE, [(8, 6)]), SPARSE)


def test_one_class_that_leaves_pixels_uncovered_can_be_taught() -> None:
    schema = LabelSchema(classes=("litter",))
    TASK.teachable(TASK.targets([[box("litter", 0, 0, 4, 6)]], schema, [(8, 6)]), schema)


def test_the_scores_are_those_worked_out_by_hand() -> None:
    """Two items of four pixels, one of them not known."""
    truth = np.array([[[0, 0, 1, 1]], [[0, 1, 2, task.IGNORED]]], np.uint8)
    said = np.array([[[0, 1, 1, 0]], [[0, 1, 0, 2]]], np.uint8)
    outputs: dict[str, NDArray[np.generic]] = {"classes": said, "sure": np.ones((2, 1, 4), np.float32)}
    found = {name: metric(np.arange(2)) for name, metric in TASK.metrics(truth, outputs, DENSE).items()}
    # road: 2 hits, 3 real, 4 said; sky: 2 hits, 3 real, 3 said; car: 0 hits, 1 real, 0 said.
    assert found["miou"] == pytest.approx((2 / 5 + 2 / 4 + 0) / 3)
    assert found["pixel_accuracy"] == pytest.approx(4 / 7)
    assert found["mean_accuracy"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert TASK.metrics(truth, outputs, DENSE)["miou"](np.array([0])) == pytest.approx((1 / 3 + 1 / 3) / 2)
    assert TASK.by_class(truth, outputs, DENSE) == {
        "road": {"iou": pytest.approx(0.4), "accuracy": pytest.approx(2 / 3), "share": pytest.approx(3 / 7)},
        "sky": {"iou": pytest.approx(0.5), "accuracy": pytest.approx(2 / 3), "share": pytest.approx(3 / 7)},
        "car": {"iou": 0.0, "accuracy": 0.0, "share": pytest.approx(1 / 7)},
    }
    assert TASK.quality(truth, outputs, DENSE).tolist() == [0.5, pytest.approx(2 / 3)]


def test_pixels_of_nothing_are_no_class_of_their_own_but_count_against_others() -> None:
    truth = np.array([[[0, 3, 3, 3]]], np.uint8)
    outputs = answer(np.array([[[0, 0, 255, 255]]], np.uint8))
    found = {name: metric(np.arange(1)) for name, metric in TASK.metrics(truth, outputs, SPARSE).items()}
    assert found == {"miou": 0.5, "pixel_accuracy": 0.75, "mean_accuracy": 1.0}
    empty = np.full((1, 1, 4), 3, np.uint8)
    assert TASK.metrics(empty, answer(np.full((1, 1, 4), 255, np.uint8)), SPARSE)["miou"](np.arange(1)) == 1.0
    assert TASK.metrics(empty, outputs, SPARSE)["miou"](np.arange(1)) == 0.0


@settings(deadline=None)  # the first call imports scikit-learn
@given(st.integers(0, 2**32 - 1), st.integers(2, 9))
def test_the_scores_are_those_of_scikit_learns_confusion_matrix(seed: int, classes: int) -> None:
    from sklearn.metrics import confusion_matrix

    rng = np.random.default_rng(seed)
    schema = LabelSchema(classes=tuple(f"class {i}" for i in range(classes)))
    truth = rng.integers(0, classes + 1, (4, 5, 7)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.2] = task.IGNORED
    said = np.where(rng.random(truth.shape) < 0.5, truth, rng.integers(0, classes + 1, truth.shape)).astype(np.uint8)
    said[said == classes] = task.NOTHING
    at = rng.integers(0, 4, 6)
    metrics = TASK.metrics(truth, {"classes": said, "sure": np.ones((4, 1, 1), np.float32)}, schema)
    known = truth[at] != task.IGNORED
    table = confusion_matrix(
        truth[at][known], np.minimum(said[at][known], classes), labels=range(classes + 1)
    )  # rows: truth
    hits, real, given_ = np.diag(table)[:classes], table.sum(1)[:classes], table.sum(0)[:classes]
    seen = real > 0
    wanted = (hits[seen] / (real + given_ - hits)[seen]).mean() if seen.any() else float(not given_.any())
    assert metrics["miou"](at) == pytest.approx(wanted)
    assert metrics["pixel_accuracy"](at) == pytest.approx(np.trace(table) / table.sum())


def test_intervals_of_many_items_take_no_time() -> None:
    truth = maps(200)
    found = scores.score(TASK, truth, answer(np.roll(truth, 1, axis=0)), SPARSE)["miou"]
    assert found.low < found.value < found.high


def test_answers_are_scored_on_the_grid_of_the_truth() -> None:
    truth = np.repeat(np.repeat(maps(2), 3, axis=1), 2, axis=2)
    metrics = TASK.metrics(truth, answer(maps(2)), SPARSE)
    assert metrics["miou"](np.arange(2)) == 1.0


def test_answers_are_told_in_pixels_of_the_image() -> None:
    classes = np.full((1, HEIGHT, WIDTH), task.NOTHING, np.uint8)
    classes[0, :, :2] = 2
    classes[0, :2, 6:] = 0
    (found,) = TASK.decode(answer(classes, 0.75), SPARSE, [(80, 60)])
    assert [(row["label"], row["share"], row["score"]) for row in found["regions"]] == [
        ("leaf", 0.25, 0.75),
        ("litter", round(4 / 48, 6), 0.75),
    ]
    pixels = mask.decode(found["regions"][0]["mask"]["counts"], 60, 80)
    assert pixels[:, :20].all()
    assert pixels.sum() == 60 * 20
    assert found["regions"][0]["mask"]["size"] == [60, 80]
    (((shape, sure), _),) = [
        tuple(reversed(said)) for said in TASK.labels(answer(classes, 0.75), SPARSE, "m", [(80, 60)])
    ]
    assert (shape.label, shape.author, shape.points, sure) == ("leaf", "m", ((60.0, 80.0),), 0.75)


def test_what_is_no_answer_is_refused() -> None:
    good = answer(maps(2))
    for bad in (
        {"classes": good["classes"]},
        {**good, "classes": good["classes"][0]},
        {**good, "sure": good["sure"][:1]},
    ):
        with pytest.raises(Invalid):
            TASK.decode(bad, SPARSE)


def test_agreement_is_the_share_of_pixels_alike() -> None:
    left, right = maps(2), maps(2)
    right[0, :3] = (right[0, :3] + 1) % 3
    assert TASK.agreement(answer(left), answer(right), SPARSE) == 0.75
    with pytest.raises(Invalid, match="of the same items"):
        TASK.agreement(answer(left), answer(right[:1]), SPARSE)


def test_a_sample_shows_image_truth_and_answer_side_by_side() -> None:
    assert isinstance(TASK, Pictured)
    images = np.full((2, 12, 16, 3), 9, np.uint8)
    truth = maps(2, 4)
    found = TASK.sample(images, truth, answer(maps(2)), SPARSE)
    assert found.shape == (24, 48, 3)
    assert (found[:, :16] == 9).all()
    assert (found[0, 16] == task.COLORS[truth[0, 0, 0]]).all() or truth[0, 0, 0] == 3
    assert (task.COLORS[task.NOTHING] == 0).all()
    assert len({tuple(color) for color in task.COLORS[:254].tolist()}) == 254


@given(st.integers(0, 2**32 - 1))
def test_masks_of_all_classes_at_once_are_those_of_each(seed: int) -> None:
    found = np.random.default_rng(seed).integers(0, 4, (5, 7)).astype(np.uint8)
    assert mask.encode_classes(found) == {i: mask.encode(found == i) for i in np.unique(found).tolist()}


def test_a_student_learns_the_label_or_what_its_teacher_is_sure_of() -> None:
    schema = LabelSchema(classes=("road", "sky"))
    labels = np.zeros((1, 40, 40), np.uint8)
    labels[:, 20:] = task.IGNORED
    said: Arrays = {"classes": np.full((1, 20, 20), 1, np.uint8), "sure": np.full((1, 10, 10), 0.5, np.float32)}
    assert isinstance(TASK, Teaching)
    found = TASK.taught(labels, said, schema, share=0.8, seed=0)
    assert found.dtype == np.uint8
    # By hand: 0.8 * 0.5 of the labeled pixels become the teacher's class, and 0.5 of those that nobody labeled.
    assert (found[:, :20] == 1).mean() == pytest.approx(0.4, abs=0.05)
    assert set(np.unique(found[:, :20])) == {0, 1}
    assert (found[:, 20:] == 1).mean() == pytest.approx(0.5, abs=0.05)
    assert set(np.unique(found[:, 20:])) == {1, task.IGNORED}
    assert (labels[:, :20] == 0).all(), "the truth stays as it was"
    nothing: Arrays = {**said, "classes": np.full((1, 20, 20), task.NOTHING, np.uint8)}
    assert (TASK.taught(labels, nothing, schema, share=0.8, seed=0) == 2).any()
