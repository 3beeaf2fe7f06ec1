"""Runs OpenVINO IR (or ONNX) files on OpenVINO, on the CPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopworks.core.contracts import Arrays
from loopworks.core.errors import Invalid, Missing
from loopworks.core.registry import plugins

_PRECISION = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


class OpenVinoPredictor:
    """One compiled OpenVINO model with one infer request."""

    def __init__(self, path: Path, threads: int, precision: str) -> None:
        """Compile ``path``; ``threads`` as for one call (0: one per core)."""
        try:
            import openvino
        except ImportError:
            raise Missing("openvino", "optimize", "this variant runs on OpenVINO") from None
        config: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            # OpenVINO computes in bfloat16 unasked where the CPU can: say what the variant promises.
            "INFERENCE_PRECISION_HINT": _PRECISION.get(precision, "f32"),
        }
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            core = openvino.Core()
            stated = core.read_model(str(path))
            self._model: Any = core.compile_model(stated, "CPU", config)
        except RuntimeError as error:
            raise Invalid(str(path), "a model that OpenVINO can run", str(error)) from None
        self._request: Any = self._model.create_infer_request()
        # Compiling merges tensors that are only handed on, and their names with them: the model says which it means.
        self._outputs = [output.get_any_name() for output in stated.outputs]

    def predict(self, batch: Arrays) -> Arrays:
        """Run the batch; the answer is a copy, so the next call does not change it."""
        found = self._request.infer(dict(batch), share_inputs=True)
        return {name: found[i].copy() for i, name in enumerate(self._outputs)}

    def close(self) -> None:
        """Drop the model."""
        self._request = self._model = None


@plugins.add("runtime.openvino")
@dataclass(frozen=True, slots=True)
class OpenVino:
    """OpenVINO: the fastest on x86 processors in most measurements."""

    def load(self, path: Path, *, threads: int, precision: str) -> OpenVinoPredictor:
        """A predictor that computes in ``precision`` (fp32, bf16 or int8)."""
        return OpenVinoPredictor(path, threads, precision)
