"""INT8 for ONNX Runtime: static quantization with quantize and dequantize nodes (QDQ)."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core.contracts import Context
from loopworks.core.errors import Missing
from loopworks.core.registry import plugins
from loopworks.optimize.contracts import Made, Original


@plugins.add("optimize.onnx-int8")
@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxInt8:
    """INT8 for ONNX Runtime: unsigned activations, signed weights per channel, convolutions and products only.

    Signed activations are 2.5 to 3 times slower on x86, and quantizing every operator destroys transformers; both were
    measured. Source: ONNX Runtime's static quantization; Jacob et al. 2018, "Quantization and training of neural
    networks for efficient integer-arithmetic-only inference".
    """

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    samples: Annotated[int, Field(ge=1, le=10_000)] = 128
    """Training images that the value ranges are taken from."""

    def run(self, source: Original, ctx: Context) -> Made:
        """Write ``model.int8.onnx``."""
        try:
            import onnx  # noqa: F401
            from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
            from onnxruntime.quantization.shape_inference import quant_pre_process
        except ImportError:
            raise Missing("onnx", "optimize", "quantization edits ONNX files") from None
        ctx.tick(0.1, "preparing the graph")
        prepared = ctx.scratch / "prepared.onnx"
        prepared.parent.mkdir(parents=True, exist_ok=True)
        name = source.bundle.inputs[0].name
        with _quiet():
            quant_pre_process(str(source.bundle.path(source.variant.file)), str(prepared))
            ctx.tick(0.4, "calibrating")
            quantize_static(
                str(prepared),
                str(source.folder / "model.int8.onnx"),
                _Feed(name, source.samples[: self.samples], ctx),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                calibrate_method=CalibrationMethod.MinMax,
                op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            )
        prepared.unlink()
        return Made(runtime="onnxruntime", precision="int8", file="model.int8.onnx")


class _Feed:
    """Calibration images one by one, as ONNX Runtime's reader protocol wants them."""

    def __init__(self, name: str, samples: NDArray[np.uint8], ctx: Context) -> None:
        self._left = iter(samples[:, None])
        self._name = name
        self._ctx = ctx

    def get_next(self) -> dict[str, Any] | None:
        """The next image as a batch of one."""
        self._ctx.tick(0.5, "calibrating")
        image = next(self._left, None)
        return None if image is None else {self._name: image}

    def set_range(self, start: int, end: int) -> None:
        """Ranges are for data larger than memory; ours is in memory."""
        raise AssertionError("not asked for")

    def __len__(self) -> int:
        return 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's quantizer warns through the root logger, about settings that are chosen on purpose here."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
