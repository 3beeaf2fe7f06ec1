"""Variants for OpenVINO: fp32, bfloat16 where the processor has it, and int8 by NNCF, if need be with some layers
left in fp32."""

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
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
        model = _read(source)
        quiet_libraries()
        with _quiet():
            import nncf

            data, count = _calibration(source, self.batch, ctx, "openvino-int8")
            quantized = nncf.quantize(
                model,
                data,
                subset_size=count,
                model_type=nncf.ModelType.TRANSFORMER if _is_transformer(model) else None,
                ignored_scope=nncf.IgnoredScope(names=_after_layers(model), validate=False),
            )
        return _saved(quantized, source, "int8", is_half=False)


@plugins.add("optimize.openvino-int8-accurate")
@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVinoInt8Accurate:
    """INT8 by NNCF that gives back layer after layer to fp32 until the loss is within the budget."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    batch: Annotated[int, Field(ge=1, le=256)] = 16
    """Images per call."""
    layers: Annotated[int, Field(ge=1, le=1000)] = 30
    """Layers that are given back at most: where so many must be, little is won."""

    def lacks(self) -> str:
        """OpenVINO or NNCF."""
        return _lacks("openvino", "nncf")

    def unfit(self, source: Origin) -> str:
        """What plain INT8 is unfit for, and models that plain INT8 serves well enough."""
        if not source.tried.get("openvino-int8", False) or source.score is None:
            return "openvino-int8 to lose more than the budget, as only then it gives another result"
        return OpenVinoInt8(batch=self.batch).unfit(source)

    def run(self, source: Origin, ctx: Context) -> Variant:
        """Quantize with the validation split as the judge; NNCF may miss its goal, so the tournament looks again."""
        model = _read(source)
        quiet_libraries()
        with _quiet():
            import nncf

            data, count = _calibration(source, self.batch, ctx, "openvino-int8-accurate")
            places = list(range(0, size(source.val), self.batch))
            limits = nncf.AdvancedAccuracyRestorerParameters(max_num_iterations=self.layers)

            def some(place: int) -> Any:
                return rows(source.val, slice(place, place + self.batch))

            def judge(compiled: Any, asked: Any) -> tuple[float, None]:
                outputs = [output.get_any_name() for output in compiled.outputs]
                parts = []
                for place in asked:
                    ctx.tick(1.0, "restore accuracy")
                    found = compiled(some(place))
                    parts.append({name: found[at].copy() for at, name in enumerate(outputs)})
                assert source.score is not None
                return source.score({name: np.concatenate([part[name] for part in parts]) for name in outputs}), None

            quantized = nncf.quantize_with_accuracy_control(
                model,
                data,
                nncf.Dataset(places, some),
                judge,
                max_drop=source.max_drop,
                subset_size=count,
                model_type=nncf.ModelType.TRANSFORMER if _is_transformer(model) else None,
                ignored_scope=nncf.IgnoredScope(names=_after_layers(model), validate=False),
                advanced_accuracy_restorer_parameters=limits,
            )
        return replace(_saved(quantized, source, "int8", is_half=False), name="openvino-int8-accurate")


def _calibration(source: Origin, batch: int, ctx: Context, name: str) -> tuple[Any, int]:
    """NNCF's data set of the calibration items, and its number of batches."""
    import nncf

    items = source.calibration
    batches = [rows(items, slice(start, start + batch)) for start in range(0, size(items), batch)]

    def feed(place: int) -> Any:
        ctx.tick(min(1.0, place / len(batches)), f"calibrate {name}")
        return batches[place]

    return nncf.Dataset(list(range(len(batches))), feed), len(batches)


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


def _after_layers(model: Any) -> list[str]:
    """Names of the operations that no layer comes after: they stay in float32; see ``graph.after_layers``."""
    layers = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")
    ops = model.get_ordered_ops()
    before: set[str] = set()
    for op in reversed(ops):
        users = {user.get_node().get_friendly_name() for output in op.outputs() for user in output.get_target_inputs()}
        if op.get_type_name() in layers or users & before:
            before.add(op.get_friendly_name())
    skipped = ("Constant", "Parameter", "Result")
    return [
        op.get_friendly_name()
        for op in ops
        if op.get_friendly_name() not in before and op.get_type_name() not in skipped
    ]


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
