"""INT8 for ONNX Runtime: static quantization with QDQ nodes, and of weights alone for networks of matrix products."""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

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
    """INT8 on ONNX Runtime for convolutions and matrix products alone: runs wherever ONNX Runtime does."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    name: ClassVar[str] = "onnx-int8"
    operators: ClassVar[list[str] | None] = OPERATORS
    """Those that are quantized; ``None``: all that can be."""

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
                Calibration(source.calibration, self.batch, ctx, self.name),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=self.operators,
                nodes_to_exclude=graph.after_layers(prepared),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=kind,
            )
        prepared.unlink()
        return _variant(self.name, source)


@plugins.add("optimize.onnx-int8-all")
@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxInt8All(OnnxInt8):
    """INT8 on ONNX Runtime for every operator that can be: no way back to float between two convolutions."""

    name: ClassVar[str] = "onnx-int8-all"
    operators: ClassVar[list[str] | None] = None

    def unfit(self, source: Origin) -> str:
        """Transformers, whose output it destroys, and graphs without layers."""
        # By its name: dataclasses with slots are made anew, which super() without arguments does not survive.
        if found := OnnxInt8.unfit(self, source):
            return found
        return "a network of convolutions" if graph.is_transformer(source.onnx) else ""


@plugins.add("optimize.onnx-int8-dynamic")
@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxInt8Dynamic:
    """INT8 weights on ONNX Runtime, ranges read anew for each request: for networks of matrix products."""

    def lacks(self) -> str:
        """ONNX itself."""
        return OnnxInt8().lacks()

    def unfit(self, source: Origin) -> str:
        """Convolutions, which it makes eight times slower, and graphs without layers."""
        if graph.count(source.onnx, "Conv", "ConvTranspose"):
            return "a network without convolutions"
        return "" if graph.weighs(source.onnx, ["MatMul", "Gemm"]) else "matrix products with float32 weights"

    def run(self, source: Origin, ctx: Context) -> Variant:
        """Quantize the weights; nothing is calibrated."""
        from onnxruntime.quantization import QuantType, quantize_dynamic

        ctx.tick(0.0, "quantize onnx-int8-dynamic")
        with _quiet():
            quantize_dynamic(
                source.onnx,
                source.folder / FILE,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        return _variant("onnx-int8-dynamic", source)


def _variant(name: str, source: Origin) -> Variant:
    size = (source.folder / FILE).stat().st_size
    return Variant(name=name, runtime="onnxruntime", precision="int8", file=FILE, files=(FILE,), size_bytes=size)


class Calibration:
    """Hands items to the quantizer; ONNX Runtime asks for one batch after the other."""

    def __init__(self, items: Arrays, batch: int, ctx: Context, name: str = "onnx-int8") -> None:
        """Serve ``items``: graph tensors whose first axis is the items; ``name`` is of the variant."""
        self._items, self._batch, self._ctx, self._name = items, batch, ctx, name
        self._next = 0

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next batch; ``None`` after the last."""
        count = size(self._items)
        self._ctx.tick(min(1.0, self._next / count), f"calibrate {self._name}")
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
