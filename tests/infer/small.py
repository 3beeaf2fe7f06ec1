"""Models without training, small enough to run in the event loop."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from loopworks.core.bundle import Bundle, Variant, write
from loopworks.core.contracts import Rule
from loopworks.core.row import Column, RowRule
from loopworks.core.values import ImageRule, LabelSchema, TensorSpec

WEIGHTS = np.array([[1, -1, 0.5], [0, 2, 1], [-1, 0, 3], [0.25, 1, -2]], np.float32)
"""From four numbers to three scores."""


def linear(folder: Path, weights: NDArray[np.float32] = WEIGHTS) -> Bundle:
    """``scores`` = ``x`` times ``weights``: one tensor of numbers in, one out."""
    rule = ImageRule(height=1, width=1)  # a bundle has one; the tensors are what clients of the protocol see
    inputs = (TensorSpec(name="x", datatype="FP32", shape=(-1, len(weights))),)
    return _written(folder, "x", weights, rule, inputs)


def rows(folder: Path) -> Bundle:
    """The same of a table: two numbers, a bool and a category (a, b), each column a tensor."""
    rule = RowRule(
        columns=(
            Column(name="age", kind="number"),
            Column(name="sum", kind="number"),
            Column(name="paid", kind="bool"),
            Column(name="city", kind="category", values=("a", "b")),
        )
    )
    return _written(folder, "features", WEIGHTS, rule, rule.inputs())


def same(folder: Path, datatype: str, shape: tuple[int, ...]) -> Bundle:
    """``y`` = ``x``, of any type (FP32, BYTES) and shape."""
    kind = {"FP32": TensorProto.FLOAT, "BYTES": TensorProto.STRING}[datatype]
    sides = [None if side == -1 else side for side in shape]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "same",
        [helper.make_tensor_value_info("x", kind, sides)],
        [helper.make_tensor_value_info("y", kind, sides)],
    )
    inputs, outputs = ((TensorSpec(name=name, datatype=datatype, shape=shape),) for name in "xy")
    return _saved(folder, graph, ImageRule(height=1, width=1), inputs, outputs)


def wide(folder: Path, width: int = 1000) -> Path:
    """A graph that takes ``width`` floats of memory for each row on the way from ``x`` to ``y``."""
    ones = numpy_helper.from_array(np.ones((1, width), np.float32), "ones")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "ones"], ["wide"]),
            helper.make_node("ReduceMax", ["wide", "axis"], ["y"]),
        ],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [ones, numpy_helper.from_array(np.array([1]), "axis")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, folder / "wide.onnx")
    return folder / "wide.onnx"


def _written(
    folder: Path, name: str, weights: NDArray[np.float32], rule: Rule, inputs: tuple[TensorSpec, ...]
) -> Bundle:
    few, many = weights.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", [name, "w"], ["scores"])],
        "linear",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", few])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", many])],
        [numpy_helper.from_array(weights, "w")],
    )
    return _saved(folder, graph, rule, inputs, (TensorSpec(name="scores", datatype="FP32", shape=(-1, many)),))


def _saved(
    folder: Path,
    graph: onnx.GraphProto,
    rule: Rule,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> Bundle:
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "model.onnx"
    )
    variant = Variant(
        name="onnx-fp32", runtime="onnxruntime", precision="fp32", file="model.onnx", files=("model.onnx",)
    )
    return write(
        Bundle(
            task="tabular-classification",
            schema=LabelSchema(classes=tuple("pqr")),
            rule=rule,
            inputs=inputs,
            outputs=outputs,
            version="0" * 64,
            recipe="train.none",
            variants=(variant,),
            chosen=variant.name,
        ),
        folder,
    )
