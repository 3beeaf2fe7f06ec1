"""Small networks written node by node, and pictures that they know: nothing is trained."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tests.train.source import Memory

from loopworks.core import bundle as bundles
from loopworks.core.bundle import Bundle, Variant
from loopworks.core.values import ImageRule, LabelSchema, TensorSpec

SIZE = 48
CLASSES = ("red", "green", "blue")
Weights = dict[str, NDArray[Any]]


def pictures(train: int = 24, val: int = 30, test: int = 12, *, strength: int = 60) -> Memory:
    """Images of one colour under noise."""
    rng = np.random.default_rng(3)
    images, labels = {}, {}
    for split, count in (("train", train), ("val", val), ("test", test)):
        truth = np.arange(count) % 3
        found = rng.integers(0, 120, (count, SIZE, SIZE, 3))
        found[np.arange(count), :, :, truth] += strength
        images[split] = found.astype(np.uint8)
        labels[split] = np.eye(3, dtype=np.float32)[truth]
    return Memory(images=images, labels=labels, schema=LabelSchema(classes=CLASSES))


def bundle(folder: Path, nodes: list[Any], weights: Weights) -> Bundle:
    """A model of these nodes, which go from ``pixels`` (float, NCHW) to ``logits``."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = [
        helper.make_node("Transpose", ["image"], ["turned"], "turn", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["turned"], ["pixels"], "cast", to=TensorProto.FLOAT),
        *nodes,
        helper.make_node("Softmax", ["logits"], ["scores"], "softmax", axis=-1),
    ]
    graph = helper.make_graph(
        whole,
        "colors",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
    size = (folder / "model.onnx").stat().st_size
    variant = Variant(
        name="onnx-fp32", runtime="onnxruntime", precision="fp32", file="model.onnx", files=("model.onnx",),
        size_bytes=size,
    )  # fmt: skip
    return bundles.write(
        Bundle(
            task="image-classification",
            schema=LabelSchema(classes=CLASSES),
            rule=ImageRule(height=SIZE, width=SIZE),
            inputs=(TensorSpec(name="image", datatype="UINT8", shape=(-1, SIZE, SIZE, 3)),),
            outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, 3)),),
            version="0" * 64,
            recipe="import.onnx",
            variants=(variant,),
            chosen="onnx-fp32",
        ),
        folder,
    )


def colors(folder: Path) -> Bundle:
    """A convolution, a mean over all places and a product: takes images of any size."""
    spread = np.zeros((8, 3, 3, 3), np.float32)
    for channel in range(3):
        spread[channel, channel] = 1 / 9
        spread[channel + 3, channel] = 1 / 18
    head = np.zeros((8, 3), np.float32)
    head[:3] = head[3:6] = np.eye(3) * 0.2
    nodes = [
        helper.make_node("Conv", ["pixels", "spread"], ["seen"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["seen"], ["kept"], "relu"),
        helper.make_node("GlobalAveragePool", ["kept"], ["mean"], "pool"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "head"], ["logits"], "product"),
    ]
    return bundle(folder, nodes, {"spread": spread, "head": head})


def fixed(folder: Path) -> Bundle:
    """One weight per pixel: takes images of one size alone."""
    head = np.zeros((3, SIZE * SIZE, 3), np.float32)
    for channel in range(3):
        head[channel, :, channel] = 0.2 / SIZE**2
    nodes = [
        helper.make_node("Conv", ["pixels", "same"], ["seen"], "conv"),
        helper.make_node("Flatten", ["seen"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "head"], ["logits"], "product"),
    ]
    same = np.eye(3, dtype=np.float32)[:, :, None, None]
    return bundle(folder, nodes, {"same": same, "head": head.reshape(-1, 3)})


def delicate(folder: Path) -> Bundle:
    """A product whose input holds one number a thousand times as large as those that matter: INT8 loses these."""
    scale = np.array([[1000, 1, 1]], np.float32)
    head = np.array([[0.0002, 0, 0], [0, 0.2, 0], [0, 0, 0.2]], np.float32)
    nodes = [
        helper.make_node("Conv", ["pixels", "same"], ["seen"], "conv"),
        helper.make_node("GlobalAveragePool", ["seen"], ["mean"], "pool"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flatten"),
        helper.make_node("Mul", ["flat", "scale"], ["large"], "stretch"),
        helper.make_node("MatMul", ["large", "head"], ["logits"], "product"),
    ]
    same = np.eye(3, dtype=np.float32)[:, :, None, None]
    return bundle(folder, nodes, {"same": same, "scale": scale, "head": head})


def products(folder: Path) -> Bundle:
    """Matrix products alone."""
    rng = np.random.default_rng(0)
    first = np.concatenate([np.eye(3), 0.01 * rng.normal(size=(3, 61))], axis=1).astype(np.float32)
    second = np.zeros((64, 3), np.float32)
    second[:3] = 0.3 * np.eye(3)
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["mean"], "pool"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "first"], ["wide"], "first-product"),
        helper.make_node("Relu", ["wide"], ["kept"], "relu"),
        helper.make_node("MatMul", ["kept", "second"], ["logits"], "second-product"),
    ]
    return bundle(folder, nodes, {"first": first, "second": second})
