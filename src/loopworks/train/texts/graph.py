"""The ONNX graph of a network on pieces, written node by node: made in milliseconds, any batch, any length."""
# ruff: noqa: TID253 - this file is imported inside functions only

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from loopworks.tasks.classes import OUTPUT
from loopworks.train.export import OPSET

PIECES, COUNTS = "pieces", "counts"


def write(weights: Mapping[str, NDArray[Any]], path: Path, *, is_multi: bool) -> None:
    """Write the graph that takes what ``core.text.TextRule`` encodes.

    Args:
        weights: ``table`` int32 (a piece's number -> its place, 0 where it is not known), ``idf`` and ``vectors`` by
            place, ``bias``, and ``head.weight`` and ``head.bias`` where there is a hidden layer.
        path: the file to write.
        is_multi: chances that are independent of each other, instead of ones that sum to 1.
    """
    nodes: list[Any] = []
    held = {"one": np.float32(1), "zero": np.float32(0), "least": np.float32(1e-9), "axis": np.array([1], np.int64)}
    held |= {name: weights[name] for name in ("table", "idf", "vectors", "bias")}

    def add(kind: str, out: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [out], name=out, **attributes))
        return out

    place = add("Gather", "place", "table", PIECES)
    often = add("Add", "often", add("Log", "log", add("Max", "positive", COUNTS, "one")), "one")
    there = add("Cast", "there", add("Greater", "is_there", COUNTS, "zero"), to=TensorProto.FLOAT)
    raw = add("Mul", "raw", add("Mul", "rare", often, add("Gather", "idf_there", "idf", place)), there)
    square = add("ReduceSum", "square", add("Mul", "squares", raw, raw), "axis", keepdims=1)
    weight = add("Div", "weight", raw, add("Max", "length", add("Sqrt", "root", square), "least"))
    row = add("Unsqueeze", "row", weight, "axis")
    summed = add("MatMul", "summed", row, add("Gather", "vectors_there", "vectors", place))
    logits = add("Add", "inner", add("Squeeze", "flat", summed, "axis"), "bias")
    if "head.weight" in weights:
        held |= {"head.weight": weights["head.weight"], "head.bias": weights["head.bias"]}
        logits = add("Gemm", "logits", add("Relu", "hidden", logits), "head.weight", "head.bias", transB=1)
    if is_multi:
        add("Sigmoid", OUTPUT, logits)
    else:
        add("Softmax", OUTPUT, logits, axis=-1)
    shape = ["batch", "length"]
    classes = len(weights.get("head.bias", weights["bias"]))
    graph = helper.make_graph(
        nodes,
        "pieces",
        [
            helper.make_tensor_value_info(PIECES, TensorProto.INT32, shape),
            helper.make_tensor_value_info(COUNTS, TensorProto.FLOAT, shape),
        ],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))
