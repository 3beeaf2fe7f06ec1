"""What the demo says of active learning follows from the figures, also when they are against it."""

import re
from typing import Any

import pytest

from loopworks.core.bundle import Bundle, Variant
from loopworks.core.values import ImageRule, LabelSchema, Score, TensorSpec
from loopworks.demo import digits
from loopworks.demo.loop import saved
from loopworks.demo.report import front, labels_curve


def rounds(active: list[float], random: list[float]) -> list[dict[str, Any]]:
    return [
        {
            "labels": 60 + 80 * i,
            "active": {"value": a, "low": a - 0.02, "high": a + 0.02},
            "random": {"value": r, "low": r - 0.02, "high": r + 0.02},
        }
        for i, (a, r) in enumerate(zip(active, random, strict=True))
    ]


def test_fewer_labels_are_counted_between_the_rounds() -> None:
    # Both end at 0.90; the active curve crosses it half way between 140 and 220, the random one at 300.
    text = saved(rounds([0.80, 0.88, 0.92, 0.90], [0.80, 0.84, 0.88, 0.90]))
    assert "about 180 labels, random picks with about 300: 40% fewer labels" in text
    assert "may be chance" in text


def test_random_picks_that_never_got_there_are_said_to_have_not() -> None:
    text = saved(rounds([0.80, 0.90, 0.96, 0.98], [0.80, 0.85, 0.91, 0.90]))
    assert "reached 0.980 with about 300 labels" in text
    assert "had not reached it with 300 (0.910 at best)" in text
    assert "chance" not in text  # the last intervals do not touch


def test_nothing_saved_is_said_plainly() -> None:
    assert "nothing saved" in saved(rounds([0.8, 0.82, 0.84, 0.86], [0.8, 0.85, 0.88, 0.90]))
    # Random was there at 140 labels already, and stayed: its last round must not hide that.
    assert "nothing saved" in saved(rounds([0.8, 0.85, 0.88, 0.90], [0.8, 0.90, 0.90, 0.90]))


@pytest.mark.train
def test_curves_are_real_pictures() -> None:
    png = labels_curve(rounds([0.8, 0.9, 0.93, 0.95], [0.8, 0.85, 0.9, 0.92]))
    assert png.startswith(b"\x89PNG")
    assert len(png) > 10_000


@pytest.mark.train
def test_the_front_draws_every_variant() -> None:
    scores = {"accuracy": Score(value=0.9, low=0.88, high=0.92, count=100)}
    variants = tuple(
        Variant(
            name=name,
            runtime="onnxruntime",
            precision="fp32",
            file="model.onnx",
            metrics={"test": scores},
            latency_ms={"p50": ms},
        )
        for name, ms in (("onnx-fp32", 1.0), ("onnx-int8", 0.5))
    )
    bundle = Bundle(
        task="image-classification",
        schema=LabelSchema(classes=("a", "b")),
        rule=ImageRule(height=8, width=8),
        inputs=(TensorSpec(name="image", datatype="UINT8", shape=(-1, 8, 8, 3)),),
        outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, 2)),),
        version="0" * 64,
        recipe="train.small-cnn",
        variants=variants,
        chosen="onnx-int8",
    )
    assert front(bundle).startswith(b"\x89PNG")


@pytest.mark.train
def test_digits_are_written_once_as_png_files_per_class(tmp_path: Any) -> None:
    assert digits.write(tmp_path) == 1797
    files = sorted(tmp_path.glob("*/*.png"))
    assert len(files) == 1797
    assert {re.sub(r"\D", "", f.parent.name) for f in files} == set("0123456789")
    before = files[0].stat().st_mtime_ns
    digits.write(tmp_path)
    assert files[0].stat().st_mtime_ns == before
