"""Variants for OpenVINO: fp32, bfloat16 where the processor has it, and int8 by NNCF."""

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from loopworks.core.bundle import Variant
from loopworks.core.contracts import Context
from loopworks.core.registry import plugins
from loopworks.core.settings import quiet_libraries
from loopworks.optimize import graph
from loopworks.optimize.contracts import Origin
from loopworks.optimize.onnx_int8 import OPERATORS
from loopworks.tasks.answers import rows, size

FILE, WEIGHTS = "model.xml", "model.bin"
INSTALL = "pip install 'loopworks[optimize]'"


@plugins.add("optimize.openvino-fp32")
@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVinoFp32:
    """The model as it is, on OpenVINO."""

    def lacks(self) -> str:
        """The package."""
        return _lacks("openvino")

    def unfit(self, source: Origin) -> str:
        """Trees."""
        return _unfit(source)

    def run(self, source: Origin, ctx: Context) -> Variant:
        """Convert; weights stay fp32."""
        ctx.tick(0.0, "convert to openvino-fp32")
        return _saved(_read(source), source, "fp32", is_half=False)


@plugins.add("optimize.openvino-bf16")
@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVinoBf16:
    """Computed in bfloat16, weights stored in 16 bits: no calibration, half the size."""

    def lacks(self) -> str:
        """The package, or a processor that computes in bfloat16."""
        if lacking := _lacks("openvino"):
            return lacking
        import openvino

        able = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return "" if able else "a processor with bfloat16 instructions"

    def unfit(self, source: Origin) -> str:
        """Trees."""
        return _unfit(source)

    def run(self, source: Origin, ctx: Context) -> Variant:
        """Convert."""
        ctx.tick(0.0, "convert to openvino-bf16")
        return _saved(_read(source), source, "bf16", is_half=True)


@plugins.add("optimize.openvino-int8")
@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVinoInt8:
    """INT8 by NNCF's post-training quantization: the fastest on x86 processors in most measurements."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    batch: Annotated[int, Field(ge=1, le=256)] = 16
    """Calibration images per call."""

    def lacks(self) -> str:
        """OpenVINO or NNCF."""
        return _lacks("openvino", "nncf")

    def unfit(self, source: Origin) -> str:
        """Trees, and whatever else has no layers of float32 weights."""
        return _unfit(source) or ("" if graph.weighs(source.onnx, OPERATORS) else "layers of weights in float32")

    def run(self, source: Origin, ctx: Context) -> Variant:
        """Quantize; networks that are mostly matrix products are treated as transformers."""
        items = source.calibration
        batches = [rows(items, slice(start, start + self.batch)) for start in range(0, size(items), self.batch)]

        def feed(place: int) -> Any:
            ctx.tick(min(1.0, place / len(batches)), "calibrate openvino-int8")
            return batches[place]

        model = _read(source)
        quiet_libraries()
        with _quiet():
            import nncf

            quantized = nncf.quantize(
                model,
                nncf.Dataset(list(range(len(batches))), feed),
                subset_size=len(batches),
                model_type=nncf.ModelType.TRANSFORMER if _is_transformer(model) else None,
            )
        return _saved(quantized, source, "int8", is_half=False)


def _lacks(*packages: str) -> str:
    missing = [name for name in packages if not importlib.util.find_spec(name)]
    return f"package {', '.join(missing)} ({INSTALL})" if missing else ""


def _unfit(source: Origin) -> str:
    operator = graph.trees(source.onnx) if importlib.util.find_spec("onnx") else ""
    return f"a graph without operators for trees ({operator}), which OpenVINO lacks" if operator else ""


def _read(source: Origin) -> Any:
    import openvino

    return openvino.Core().read_model(str(source.onnx))


def _saved(model: Any, source: Origin, precision: str, *, is_half: bool) -> Variant:
    import openvino

    openvino.save_model(model, str(source.folder / FILE), compress_to_fp16=is_half)
    files = (FILE, WEIGHTS)
    return Variant(
        name=f"openvino-{precision}",
        runtime="openvino",
        precision=precision,
        file=FILE,
        files=files,
        size_bytes=sum(_size(source.folder / file) for file in files),
    )


def _size(path: Path) -> int:
    return path.stat().st_size


def _is_transformer(model: Any) -> bool:
    kinds = [op.get_type_name() for op in model.get_ops()]
    products = sum(kind in ("MatMul", "ScaledDotProductAttention") for kind in kinds)
    return products > sum("Convolution" in kind for kind in kinds)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """NNCF logs to the console, draws progress bars on it, and makes its logger class everybody's at import."""
    kind = logging.getLoggerClass()
    # NNCF imports torch where it finds it, which then reports that there is no CUDA here.
    cuda = logging.getLogger("torch.utils.cpp_extension")
    level = cuda.level
    cuda.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            import nncf

            # Not nncf.set_log_level: it was seen to raise the level of handlers that are not NNCF's own.
            logging.getLogger(nncf.__name__).setLevel(logging.ERROR)
            yield
        finally:
            logging.setLoggerClass(kind)
            cuda.setLevel(level)
