"""A small ONNX graph, written node by node, in double precision throughout, so that it decides as in training."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.row import FEATURES

OPSET, TREES, IR = 20, 5, 10


class Graph:
    """Nodes and constants that begin at ``features`` (float32) and at the same numbers in double precision."""

    def __init__(self, width: int) -> None:
        """Start a graph for rows of ``width`` features."""
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._width = width
        self.features = self.node("Cast", FEATURES, to=self._type(np.float64))

    def node(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; gives the output's name."""
        from onnx import helper

        name = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], domain=domain, **attributes))
        return name

    def constant(self, values: NDArray[Any]) -> str:
        """Add a constant; gives its name."""
        from onnx import numpy_helper

        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def cast(self, value: str, kind: Any) -> str:
        """The same numbers in another type."""
        return self.node("Cast", value, to=self._type(kind))

    def save(self, path: Path, value: str, name: str, columns: int) -> None:
        """Write the model whose float32 output ``name``, shape ``(batch, columns)``, is ``value``."""
        import onnx
        from onnx import TensorProto, helper

        last = helper.make_node("Cast", [value], [name], to=TensorProto.FLOAT)
        graph = helper.make_graph(
            [*self._nodes, last],
            "rows",
            [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["batch", self._width])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", columns])],
            self._constants,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", TREES)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR, producer_name="loopworks")
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString(deterministic=True))

    def _type(self, kind: Any) -> int:
        from onnx import helper

        return int(helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
