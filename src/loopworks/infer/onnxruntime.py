"""Runs ONNX files on ONNX Runtime, on the CPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loopworks.core.contracts import Arrays
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins


class OnnxPredictor:
    """One ONNX Runtime session."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load ``path``; ``threads`` is the number of threads of one call (0: one per core)."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads steal the cores that other sessions and the server need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a class of its own per fault, all of them private
            raise Invalid(str(path), "an ONNX model that ONNX Runtime can run", str(error)) from None
        self._outputs = [output.name for output in self._session.get_outputs()]

    def predict(self, batch: Arrays) -> Arrays:
        """Run the batch."""
        found = self._session.run(self._outputs, {name: np.ascontiguousarray(x) for name, x in batch.items()})
        return dict(zip(self._outputs, found, strict=True))

    def close(self) -> None:
        """Drop the session."""
        self._session = None


@plugins.add("runtime.onnxruntime")
@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """ONNX Runtime: every machine has it."""

    def load(self, path: Path, *, threads: int, precision: str) -> OnnxPredictor:
        """A predictor; the precision is in the file, so ``precision`` changes nothing here."""
        return OnnxPredictor(path, threads)
