"""What an ONNX graph is made of: makers ask it whether their kind of variant makes sense for it."""

from pathlib import Path

TREES = "ai.onnx.ml"


def trees(path: Path) -> str:
    """The first operator for trees and the like (``ai.onnx.ml``) of a graph; empty where there is none."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return next((node.op_type for node in graph.node if node.domain == TREES), "")


def weighs(path: Path, operators: list[str]) -> bool:
    """Whether one of the operators takes float32 weights, as the layers of networks do."""
    import onnx
    from onnx import TensorProto

    graph = onnx.load(path, load_external_data=False).graph
    single = {weight.name for weight in graph.initializer if weight.data_type == TensorProto.FLOAT}
    # Constants may also be nodes; a graph of trees or double numbers has neither form in float32.
    single |= {
        node.output[0]
        for node in graph.node
        if node.op_type == "Constant" and any(a.t.data_type == TensorProto.FLOAT for a in node.attribute)
    }
    return any(node.op_type in operators and single & set(node.input) for node in graph.node)
