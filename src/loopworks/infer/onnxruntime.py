"""Runs ONNX files on ONNX Runtime, on the CPU or, where its build has the provider, on CUDA or TensorRT."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Arrays
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins

_PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
"""Device -> who computes, by preference: the later ones take what the earlier cannot."""


class OnnxPredictor:
    """One ONNX Runtime session."""

    is_shareable = True
    """A session may run in several threads at once."""

    def __init__(self, path: Path, threads: int, device: str = "cpu") -> None:
        """Load ``path``; ``threads`` is the number of threads of one call (0: one per core).

        Raises: Invalid: no provider for ``device``, or no model that it runs.
        """
        import onnxruntime

        available = onnxruntime.get_available_providers()
        if (first := _PROVIDERS[device][0]) not in available:
            known = ", ".join(name for name, (own, *_) in _PROVIDERS.items() if own in available)
            raise Invalid("device", known, device, f"{first} is in other builds of ONNX Runtime, e.g. onnxruntime-gpu")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads steal the cores that other sessions and the server need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=_PROVIDERS[device])
        except Exception as error:  # ONNX Runtime raises a class of its own per fault, all of them private
            raise Invalid(str(path), "an ONNX model that ONNX Runtime can run", str(error)) from None
        self._once: Any = None
        """Options of the next run alone."""
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.device = str(self._session.get_providers()[0])
        """The provider that computes, as ONNX Runtime calls it: it may fall back to another than was wanted."""

    def predict(self, batch: Arrays) -> Arrays:
        """Run the batch."""
        options, self._once = self._once, None
        found = self._session.run(self._outputs, {name: _taken(name, x) for name, x in batch.items()}, options)
        return dict(zip(self._outputs, found, strict=True))

    def trim(self) -> None:
        """Give back with the next run what larger ones took; a session keeps it otherwise for others of their size."""
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._once = options

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def _taken(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """An input as ONNX Runtime wants it: in one piece, and texts as ``str``, as it would take the repr of bytes."""
    if array.dtype.kind != "O":
        return np.asarray(array, order="C")
    found = np.empty(array.shape, object)
    try:
        found.reshape(-1)[:] = [one.decode() if isinstance(one, bytes) else one for one in array.flat]
    except UnicodeDecodeError as error:
        raise Invalid(f"input {name}", "UTF-8 text", error.object[:100]) from None
    return found


@plugins.add("runtime.onnxruntime")
@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """ONNX Runtime: every machine has it."""

    device: Literal["cpu", "cuda", "tensorrt"] = "cpu"
    """Where it computes; another than the CPU needs a build of ONNX Runtime that can."""

    def load(self, path: Path, *, threads: int, precision: str) -> OnnxPredictor:
        """A predictor; the precision is in the file, so ``precision`` changes nothing here."""
        return OnnxPredictor(path, threads, self.device)
