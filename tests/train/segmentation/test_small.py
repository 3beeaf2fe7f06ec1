"""The small segmenter: it learns, repeats, resumes, bears bad data, and keeps its budget."""

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from tests.train.segmentation.scenes import Scenes, scenes, shapes

from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Context
from loopworks.core.errors import Cancelled, Invalid
from loopworks.core.values import ImageRule, LabelSchema
from loopworks.tasks import segmentation as task
from loopworks.testing.context import Recorder
from loopworks.train import loop
from loopworks.train.segmentation.small import SmallSegmenter
from loopworks.train.stage import train

pytestmark = pytest.mark.train
QUICK = {"epochs": 12, "width": 8, "blocks": 1, "decoder": 16, "patience": 99}


def learn(
    source: Any, folder: Path, ctx: Context | None = None, budget_s: float | None = None, **params: Any
) -> Bundle:
    return train(
        source,
        recipe="small-segmenter",
        params={**QUICK, **params},
        folder=folder / "bundle",
        ctx=ctx or Recorder().context(folder / "scratch"),
        budget_s=budget_s,
        threads=1,
    )


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, recorder: Recorder) -> Bundle:
    folder = tmp_path_factory.mktemp("small")
    return learn(scenes(), folder, recorder.context(folder / "scratch"), epochs=40)


def weights(bundle: Bundle) -> str:
    return bundle.sha256["model.safetensors"]


def test_it_learns_where_things_are(made: Bundle) -> None:
    assert made.metrics["test"]["miou"].value > 0.8
    assert made.metrics["test"]["pixel_accuracy"].value > 0.9
    assert made.metrics["test"]["miou"].low < made.metrics["test"]["miou"].value


def test_the_input_has_the_shape_of_the_images(made: Bundle) -> None:
    assert made.rule == ImageRule(height=64, width=96)
    assert [spec.name for spec in made.outputs] == ["classes", "sure"]
    assert "nothing, which is no class" in " ".join(made.notes)


def test_any_onnx_runtime_gives_the_classes_of_raw_pixels(made: Bundle) -> None:
    source = scenes()
    session = onnxruntime.InferenceSession(made.path(made.variant().file))
    classes, sure = session.run(None, {"image": source.inputs(made.rule, "test")["image"]})
    assert (classes.dtype, classes.shape) == (np.uint8, (6, 64, 96))
    assert set(np.unique(classes)) == {0, 1, task.NOTHING}
    assert (sure.dtype, sure.shape) == (np.float32, (6, 16, 24))
    assert 1 / 3 <= sure.min() <= sure.max() <= 1


def test_curves_and_pictures_are_shown_while_it_learns(made: Bundle, recorder: Recorder) -> None:
    curve = [value for name, _, value in recorder.metrics if name == "val_headline"]
    assert len(curve) == 40
    assert curve[-1] > curve[0]
    name, step, png = recorder.pictures[0]
    assert (name, step) == ("val", 1)
    assert Image.open(io.BytesIO(png)).size == (3 * 96, 4 * 64)


def test_the_same_seed_gives_the_same_model_and_another_seed_another(tmp_path: Path) -> None:
    one, two, three = (
        learn(scenes(), tmp_path / str(i), Recorder().context(tmp_path / str(i) / "s", seed), epochs=2)
        for i, seed in enumerate((5, 5, 6))
    )
    assert weights(one) == weights(two) != weights(three)
    assert one.sha256["model.onnx"] == two.sha256["model.onnx"]


def test_a_training_stopped_and_run_again_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    whole = learn(scenes(), tmp_path / "whole", epochs=4)
    done = {"epochs": 0}

    def metric(name: str, step: int, value: float) -> None:
        done["epochs"] = max(done["epochs"], step)

    stopping = Context(
        seed=0,
        scratch=tmp_path / "cut" / "scratch",
        report=lambda share, text: None,
        stopped=lambda: done["epochs"] >= 2,
        metric=metric,
    )
    with pytest.raises(Cancelled):
        learn(scenes(), tmp_path / "cut", stopping, epochs=4)
    assert not (tmp_path / "cut" / "bundle").exists()
    again = learn(scenes(), tmp_path / "cut", epochs=4)
    assert weights(again) == weights(whole)


def test_a_warm_start_takes_over_classes_and_nothing(made: Bundle, tmp_path: Path) -> None:
    turned = LabelSchema(classes=("bar", "disc"))
    source = scenes()
    more = Scenes(pictures=source.pictures, labels=source.labels, schema=turned)
    params = {name: made.params[name] for name in ("width", "blocks", "decoder")}
    ctx = Recorder().context(tmp_path / "scratch")
    warm = train(
        more, recipe="small-segmenter", params={**params, "epochs": 1, "rate": 1e-6}, folder=tmp_path / "b", ctx=ctx,
        start=made, threads=1,
    )  # fmt: skip
    assert warm.metrics["test"]["miou"].value > 0.7
    assert "began from an earlier model" in " ".join(warm.notes)


def test_classes_named_void_are_never_learnt_nor_answered(tmp_path: Path) -> None:
    schema = LabelSchema(classes=("disc", "bar", "void"))
    made = learn(scenes(schema=schema), tmp_path, epochs=1)
    assert "neither learnt nor scored" in " ".join(made.notes)
    source = scenes(schema=schema)
    session = onnxruntime.InferenceSession(made.path(made.variant().file))
    classes, _ = session.run(None, {"image": source.inputs(made.rule, "val")["image"]})
    assert set(np.unique(classes)) <= {0, 1}


def test_three_images_of_very_different_sizes_and_no_other_split(tmp_path: Path) -> None:
    source = scenes(3, 0, 0, sizes=[(96, 64), (40, 300), (1600, 1200)])
    made = learn(source, tmp_path, epochs=1)
    assert made.metrics == {}
    assert "no validation split" in " ".join(made.notes)


def test_a_single_image_is_enough_to_run(tmp_path: Path) -> None:
    assert learn(scenes(1, 1, 0), tmp_path, epochs=1).metrics["val"]["miou"].count == 1


def test_one_class_everywhere_is_refused_before_any_work(tmp_path: Path) -> None:
    source = scenes(4, 2, 0)
    everywhere = shapes(np.zeros((64, 96), np.uint8))
    bad = Scenes(pictures=source.pictures, labels={**source.labels, "train": [everywhere] * 4})
    with pytest.raises(Invalid, match="of at least two classes"):
        learn(bad, tmp_path)


def test_a_budget_of_a_second_ends_soon_with_a_model(tmp_path: Path) -> None:
    learn(scenes(4, 2, 0), tmp_path / "warm up", epochs=1)
    began = time.monotonic()
    made = learn(scenes(), tmp_path / "timed", budget_s=1.0, epochs=0)
    assert time.monotonic() - began < 30
    assert "time budget ended training" in " ".join(made.notes)


def test_sizes_follow_the_data_and_the_budget(tmp_path: Path) -> None:
    class Wide(Scenes):
        @property
        def typical_size(self) -> tuple[int, int]:
            return 2048, 1024

    source = Wide(pictures={"train": []}, labels={"train": []})
    ctx = tmp_path

    def size(budget_s: float | None, **params: Any) -> tuple[int, int]:
        from loopworks.train.contracts import Lesson, Packed

        lesson = Lesson(source=source, inputs=Packed(source), folder=ctx, budget_s=budget_s)
        rule = SmallSegmenter(**params).sized(lesson).rule(source)
        return rule.width, rule.height

    assert size(None) == (480, 256)
    assert size(10.0) == (256, 128)
    assert size(None, image_size=1024) == (1024, 512)
