"""Variants for OpenVINO: fp32, bf16 where the processor has it, and INT8 by NNCF."""

import logging
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from loopworks.core.contracts import Context
from loopworks.core.errors import Invalid, Missing
from loopworks.core.registry import plugins
from loopworks.core.settings import quiet_libraries
from loopworks.optimize.contracts import Made, Original


@plugins.add("optimize.openvino-fp32")
@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVinoFp32:
    """The same numbers as ONNX Runtime's fp32, on OpenVINO."""

    def run(self, source: Original, ctx: Context) -> Made:
        """Write OpenVINO's own format, weights unchanged."""
        ctx.tick(0.1, "converting")
        _save(_read(source), source)
        return Made(runtime="openvino", precision="fp32", file="model.xml")


@plugins.add("optimize.openvino-bf16")
@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVinoBf16:
    """Computed in bfloat16: no calibration, and nearly the speed of INT8 where the processor has it."""

    def run(self, source: Original, ctx: Context) -> Made:
        """Write OpenVINO's own format; the precision is set when it is loaded.

        Raises: Invalid: the processor does not compute in bfloat16.
        """
        ctx.tick(0.1, "converting")
        model = _read(source)
        import openvino

        able = list(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        if "BF16" not in able:
            raise Invalid("the processor", "able to compute in bfloat16", ", ".join(able))
        _save(model, source)
        return Made(runtime="openvino", precision="bf16", file="model.xml")


@plugins.add("optimize.openvino-int8")
@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVinoInt8:
    """INT8 by NNCF's post-training quantization: the fastest on x86 processors in most measurements."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    samples: Annotated[int, Field(ge=1, le=10_000)] = 128
    """Training images that the value ranges are taken from."""

    def run(self, source: Original, ctx: Context) -> Made:
        """Quantize and write OpenVINO's own format."""
        ctx.tick(0.1, "converting")
        model = _read(source)
        quiet_libraries()
        try:
            import nncf
        except ImportError:
            raise Missing("nncf", "optimize", "it quantizes for OpenVINO") from None
        logging.getLogger("nncf").setLevel(logging.ERROR)
        name = source.bundle.inputs[0].name
        images = source.samples[: self.samples]

        def batch(image: Any) -> dict[str, Any]:
            ctx.tick(0.5, "calibrating")
            return {name: image[None]}

        found = nncf.quantize(model, nncf.Dataset(list(images), batch), subset_size=len(images))
        _save(found, source)
        return Made(runtime="openvino", precision="int8", file="model.xml")


def _read(source: Original) -> Any:
    quiet_libraries()
    try:
        import openvino
    except ImportError:
        raise Missing("openvino", "optimize", "this variant runs on OpenVINO") from None
    return openvino.Core().read_model(str(source.bundle.path(source.variant.file)))


def _save(model: Any, source: Original) -> None:
    import openvino

    # OpenVINO's writer would round the weights to fp16 unasked; what is called fp32 here is fp32.
    openvino.save_model(model, str(source.folder / "model.xml"), compress_to_fp16=False)
