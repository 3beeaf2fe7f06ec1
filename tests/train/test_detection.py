"""Learning to detect: the small detector from random weights, as a user asks for it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tests.train.pictures import Things, things

from loopworks.core import bundle as bundles
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Context
from loopworks.core.errors import Cancelled, Invalid
from loopworks.core.values import ImageRule, LabelSchema, Shape
from loopworks.tasks import detection as task
from loopworks.train import stage

pytestmark = pytest.mark.train
QUICK = {"epochs": 2, "width": 4, "blocks": 1, "batch": 8}


def context(folder: Path, seed: int = 0, stop: Callable[[], bool] = lambda: False, **more: Any) -> Context:
    return Context(seed=seed, scratch=folder, report=more.pop("report", lambda share, text: None), stopped=stop, **more)


def train(folder: Path, source: Things | None = None, **more: Any) -> Bundle:
    values: dict[str, Any] = {
        "recipe": "small-detector",
        "params": QUICK,
        "ctx": context(folder / "scratch"),
        "threads": 1,
    }
    return stage.train(source or things(), folder=folder / "bundle", **{**values, **more})


def boxes(*rows: tuple[float, float, float, float]) -> list[Shape]:
    return [Shape(label="disc", kind="box", points=(row,)) for row in rows]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return train(tmp_path_factory.mktemp("detect"))


@pytest.mark.slow
def test_it_learns_to_find_things(tmp_path: Path) -> None:
    params = {"epochs": 25, "width": 8, "blocks": 1, "batch": 16}
    made = train(tmp_path, things(64, 16, 16), params=params)
    scores = made.metrics["test"]
    assert scores["map50"].value > 0.8  # blind guesses give 0.02
    assert scores["map"].value > 0.35
    found = made.metrics["val"]["map"]
    assert found.low < found.value < found.high


def test_the_bundle_is_a_detectors(bundle: Bundle) -> None:
    assert bundles.read(bundle.folder) == bundle
    assert (bundle.task, bundle.recipe) == ("object-detection", "train.small-detector")
    assert bundle.rule == ImageRule(height=64, width=96)  # the shape of the images, in steps of 32
    assert set(bundle.metrics["test"]) >= {"map", "map50", "map75"}
    assert [spec.name for spec in bundle.outputs] == ["boxes", "scores", "classes"]


def test_any_runtime_answers_any_batch_of_raw_pixels_alike(bundle: Bundle) -> None:
    pixels = things().inputs(bundle.rule, "test")["image"]
    session = onnxruntime.InferenceSession(str(bundle.path("model.onnx")), providers=["CPUExecutionProvider"])
    found = dict(zip(("boxes", "scores", "classes"), session.run(None, {"image": pixels}), strict=True))
    assert {name: (x.dtype.name, x.shape) for name, x in found.items()} == {
        "boxes": ("float32", (12, 100, 4)),
        "scores": ("float32", (12, 100)),
        "classes": ("int64", (12, 100)),
    }
    assert (np.diff(found["scores"], axis=1) <= 0).all(), "the best come first"
    assert found["boxes"].min() >= 0
    assert (found["boxes"][..., :2] + found["boxes"][..., 2:]).max() <= 1 + 1e-5
    one = session.run(["scores"], {"image": pixels[3:4]})[0]
    np.testing.assert_allclose(one[0], found["scores"][3], atol=1e-4)


@pytest.mark.optimize
def test_openvino_gives_the_same_answers(bundle: Bundle) -> None:
    import openvino

    pixels = things().inputs(bundle.rule, "test")["image"]
    compiled = openvino.Core().compile_model(str(bundle.path("model.onnx")), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    given = {name: compiled({"image": pixels})[name] for name in ("boxes", "scores", "classes")}
    expected = predictors.load(bundle.variants[0], bundle.folder, bundle.rule).predict({"image": pixels})
    np.testing.assert_allclose(given["scores"], expected["scores"], atol=1e-3)
    near = (np.abs(given["boxes"][:, :, None] - expected["boxes"][:, None]).max(axis=3) < 1e-2).any(axis=2)
    said = expected["scores"] > 0.02
    assert said.sum() > 12
    assert near[said].mean() > 0.95, "of two boxes that are equally sure, another may have been dropped"


def test_the_same_seed_gives_the_same_weights_and_a_killed_run_too(bundle: Bundle, tmp_path: Path) -> None:
    seen: list[int] = []

    def metric(name: str, step: int, value: float) -> None:
        seen.append(step)

    scratch = tmp_path / "scratch"
    with pytest.raises(Cancelled):
        train(tmp_path, ctx=context(scratch, stop=lambda: bool(seen), metric=metric))
    again = train(tmp_path, ctx=context(scratch))
    assert again.sha256 == bundle.sha256
    assert again.metrics == bundle.metrics
    other = train(tmp_path / "other", ctx=context(tmp_path / "other", seed=1))
    assert other.sha256 != bundle.sha256


def test_a_warm_start_takes_over_what_fits(bundle: Bundle, tmp_path: Path) -> None:
    source = replace(things(), schema=LabelSchema(classes=("block", "disc", "ring")))
    made = train(tmp_path, source, start=bundle, params={**QUICK, "epochs": 1, "rate": 1e-9})
    assert "began from an earlier model" in made.notes[0]
    old, new = (load_file(b.path("model.safetensors")) for b in (bundle, made))
    np.testing.assert_allclose(new["head.weight"][0], old["head.weight"][1], atol=1e-5)
    np.testing.assert_allclose(new["box_head.weight"], old["box_head.weight"], atol=1e-5)


def test_scores_are_set_so_that_one_half_is_the_best_cut() -> None:
    labels = [boxes((10, 10, 20, 20)), boxes((40, 20, 20, 20))]
    kind = things().task
    targets = kind.targets(labels, LabelSchema(classes=("disc",)), [(96, 64)] * 2)
    said: dict[str, NDArray[Any]] = {
        "boxes": np.zeros((2, 100, 4), np.float32),
        "scores": np.zeros((2, 100), np.float32),
        "classes": np.zeros((2, 100), np.int64),
    }
    said["boxes"][:, 0] = targets[:, 0, task.X : task.HEIGHT + 1]  # both right, at 0.3; both wrong ones, at 0.2
    said["scores"][:, :2] = 0.3, 0.2
    said["boxes"][:, 1] = (0.8, 0.8, 0.1, 0.1)
    power = task.sharpening(said, targets)
    assert 0.2**power < 0.5 < 0.3**power


def test_without_val_and_test_it_trains_and_says_so(tmp_path: Path) -> None:
    made = train(tmp_path, things(3, 0, 0))
    assert dict(made.metrics) == {}
    assert any("no validation split" in note for note in made.notes)


def test_one_class_and_images_without_things_are_fine(tmp_path: Path) -> None:
    source = things(4, 4, 0)
    labels: dict[str, list[list[Shape]]] = {"train": [boxes((10, 10, 20, 20)), [], [], []], "val": [[], [], [], []]}
    made = train(tmp_path, replace(source, labels=labels, schema=LabelSchema(classes=("disc",))))
    assert made.metrics["val"]["map"].value == 0.0


def test_boxes_outside_are_cut_or_left_out_and_counted(tmp_path: Path) -> None:
    source = things(4, 0, 0)
    odd = boxes((-10, 10, 30, 20), (500, 10, 5, 5), (10, 10, 0, 0), (20, 20, 20, 20))
    made = train(tmp_path, replace(source, labels={"train": [odd, [], [], []]}))
    assert "1 boxes of the train split reach beyond their image and were cut" in made.notes
    assert "2 boxes of the train split have no size inside their image and were left out" in made.notes


def test_no_box_at_all_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="labels of the train split must be at least one box; got none"):
        train(tmp_path, replace(things(4, 0, 0), labels={"train": [[], [], [], []]}))
    assert list(tmp_path.iterdir()) == []


def test_a_budget_is_kept_and_noted(tmp_path: Path) -> None:
    made = train(tmp_path, params={**QUICK, "epochs": 10_000}, budget_s=8.0)
    assert any("time budget ended training" in note for note in made.notes)


@pytest.mark.parametrize(
    ("size", "asked", "rule"),
    [
        ((640, 480), 320, (256, 320)),
        ((480, 640), 320, (320, 256)),
        ((2000, 40), 320, (96, 320)),  # no flatter than one to four
        ((20, 20), 32, (32, 32)),
    ],
)
def test_the_input_has_the_images_shape(size: tuple[int, int], asked: int, rule: tuple[int, int]) -> None:
    from loopworks.train.detection.small import SmallDetector

    source = things(1, 0, 0, width=size[0], height=size[1])
    found = SmallDetector(image_size=asked).rule(source)
    assert (found.height, found.width) == rule
