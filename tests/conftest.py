"""What tests of several folders share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from loopworks.core.bundle import Bundle, Variant, write
from loopworks.core.values import ImageRule, LabelSchema, TensorSpec

COLORS = ((200, 40, 40), (40, 180, 60), (50, 70, 210), (210, 190, 40), (150, 60, 180))


def draw_pictures(folder: Path, counts: Mapping[str, int], *, size: int = 32, seed: int = 0) -> Path:
    """Write ``folder/<class>/NN.png``: each class has its colour, under noise; every file differs."""
    rng = np.random.default_rng(seed)
    for i, (name, count) in enumerate(sorted(counts.items())):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for n in range(count):
            noise = rng.normal(0, 40, (size, size, 3))
            pixels = np.clip(np.array(COLORS[i % len(COLORS)]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{n:03}.png")
    return folder


@pytest.fixture(scope="session")
def pictures() -> Callable[..., Path]:
    """``pictures(folder, {"cat": 5, "dog": 5}, size=32, seed=0)`` writes a learnable folder-per-class set."""
    return draw_pictures


COLOR_CLASSES = ("red", "green", "blue")


def color_bundle(
    folder: Path, *, weight: float = 12.0, size: int = 8, classes: tuple[str, ...] = COLOR_CLASSES
) -> Bundle:
    """A real model without training: softmax of ``weight`` times the mean of each colour, in 0..1."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "colors",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", size, size, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            numpy_helper.from_array(np.array(weight / 255, np.float32), "weight"),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "model.onnx"
    )
    return write(
        Bundle(
            task="image-classification",
            schema=LabelSchema(classes=classes),
            rule=ImageRule(height=size, width=size),
            inputs=(TensorSpec(name="image", datatype="UINT8", shape=(-1, size, size, 3)),),
            outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, 3)),),
            version="0" * 64,
            recipe="train.none",
            variants=(
                Variant(
                    name="onnx-fp32",
                    runtime="onnxruntime",
                    precision="fp32",
                    file="model.onnx",
                    files=("model.onnx",),
                ),
            ),
            chosen="onnx-fp32",
        ),
        folder,
    )


def color_scores(images: NDArray[np.uint8], weight: float = 12.0) -> NDArray[np.float64]:
    """What ``color_bundle`` must answer, worked out without its graph."""
    logits = images.astype(np.float64).mean(axis=(1, 2)) * weight / 255
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=1, keepdims=True))


@dataclass(frozen=True, slots=True)
class Colors:
    """The colour model, and what it must answer."""

    write: Callable[..., Bundle]
    scores: Callable[..., NDArray[np.float64]]


@pytest.fixture(scope="session")
def colors() -> Colors:
    """``colors.write(folder, weight=12)`` makes a real bundle; ``colors.scores(images, 12)`` is its answer."""
    return Colors(color_bundle, color_scores)
