"""INT8 for ONNX Runtime: static quantization with QDQ nodes."""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core.bundle import Variant
from loopworks.core.contracts import Arrays, Context
from loopworks.core.registry import plugins
from loopworks.optimize import graph
from loopworks.optimize.contracts import Origin
from loopworks.tasks.answers import rows, size

FILE = "model.onnx"
OPERATORS = ["Conv", "MatMul", "Gemm"]
"""Quantizing every operator destroyed a 12-layer vision transformer (3.6 dB); these three keep it at 27 dB."""


@plugins.add("optimize.onnx-int8")
@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxInt8:
    """INT8 on ONNX Runtime: runs wherever ONNX Runtime does."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    """How the range of an activation is read from the calibration images."""
    batch: Annotated[int, Field(ge=1, le=256)] = 16
    """Calibration images per call."""

    def lacks(self) -> str:
        """ONNX itself, which the quantizer edits."""
        return "" if importlib.util.find_spec("onnx") else "package onnx (pip install 'loopworks[optimize]')"

    def unfit(self, source: Origin) -> str:
        """Graphs without layers of float32 weights: trees and sums in double precision."""
        return "" if graph.weighs(source.onnx, OPERATORS) else f"layers of weights ({', '.join(OPERATORS)} in float32)"

    def run(self, source: Origin, ctx: Context) -> Variant:
        """Unsigned activations and signed weights per channel: signed activations are 2.5 times slower on x86."""
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        kind = {
            "minmax": CalibrationMethod.MinMax,
            "entropy": CalibrationMethod.Entropy,
            "percentile": CalibrationMethod.Percentile,
        }[self.method]
        prepared = source.folder / "prepared.onnx"
        with _quiet():
            quant_pre_process(source.onnx, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                source.folder / FILE,
                Calibration(source.calibration, self.batch, ctx),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=OPERATORS,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=kind,
            )
        prepared.unlink()
        size = (source.folder / FILE).stat().st_size
        return Variant(
            name="onnx-int8", runtime="onnxruntime", precision="int8", file=FILE, files=(FILE,), size_bytes=size
        )


class Calibration:
    """Hands items to the quantizer; ONNX Runtime asks for one batch after the other."""

    def __init__(self, items: Arrays, batch: int, ctx: Context) -> None:
        """Serve ``items``: graph tensors whose first axis is the items."""
        self._items, self._batch, self._ctx = items, batch, ctx
        self._next = 0

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next batch; ``None`` after the last."""
        count = size(self._items)
        self._ctx.tick(min(1.0, self._next / count), "calibrate onnx-int8")
        start, self._next = self._next, self._next + self._batch
        return rows(self._items, slice(start, self._next)) if start < count else None

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        """All batches that are left."""
        return iter(self.get_next, None)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Part of the quantizer's contract for strided reading, which is not asked for here."""
        raise NotImplementedError


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer gives advice through the root logger."""
    root: Any = logging.getLogger()

    def keep(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in record.pathname or record.levelno >= logging.ERROR

    root.addFilter(keep)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            root.removeFilter(keep)
