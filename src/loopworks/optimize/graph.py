"""What an ONNX graph is made of: makers ask it whether their kind of variant makes sense for it."""

from pathlib import Path
from typing import Any

TREES = "ai.onnx.ml"
LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def trees(path: Path) -> str:
    """The first operator for trees and the like (``ai.onnx.ml``) of a graph; empty where there is none."""
    return next((node.op_type for node in _nodes(path) if node.domain == TREES), "")


def count(path: Path, *operators: str) -> int:
    """How many nodes are of one of the operators."""
    return sum(node.op_type in operators for node in _nodes(path))


def is_transformer(path: Path) -> bool:
    """Whether matrix products outnumber convolutions."""
    return count(path, "MatMul") > count(path, "Conv")


def weighs(path: Path, operators: list[str]) -> bool:
    """Whether one of the operators takes float32 weights, as the layers of networks do."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    single = _weights(graph)
    return any(node.op_type in operators and single & set(node.input) for node in graph.node)


def after_layers(path: Path) -> list[str]:
    """Names of the nodes that no layer with weights comes after: activation, boxes, suppression, resizing of masks.

    What is lost there is lost for good, and it costs little time: it stays in float32.
    """
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    single = _weights(graph)
    wanted: set[str] = set()
    before: set[str] = set()
    for node in reversed(graph.node):  # nodes of a graph are sorted: whoever uses an output stands behind it
        is_layer = node.op_type in LAYERS and bool(single & set(node.input))
        if is_layer or wanted & set(node.output):
            wanted |= set(node.input)
            before.add(node.name)
    return [node.name for node in graph.node if node.name not in before]


def _weights(graph: Any) -> set[str]:
    """Names of float32 weights, also where a node turns them first."""
    from onnx import TensorProto

    found = {weight.name for weight in graph.initializer if weight.data_type == TensorProto.FLOAT}
    # Constants may also be nodes; a graph of trees or double numbers has neither form in float32.
    found |= {
        node.output[0]
        for node in graph.node
        if node.op_type == "Constant" and any(a.t.data_type == TensorProto.FLOAT for a in node.attribute)
    }
    for node in graph.node:
        if node.op_type in ("Transpose", "Reshape", "Identity") and node.input[0] in found:
            found.add(node.output[0])
    return found


def _nodes(path: Path) -> Any:
    import onnx

    return onnx.load(path, load_external_data=False).graph.node
