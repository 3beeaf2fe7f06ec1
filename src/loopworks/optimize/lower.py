"""The same weights asked with smaller images: the graph shrinks what it gets, so that nothing changes for clients."""

import importlib.util
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from loopworks.core.bundle import Variant
from loopworks.core.contracts import Context
from loopworks.core.errors import Failed
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule
from loopworks.optimize import graph
from loopworks.optimize.contracts import Origin
from loopworks.tasks.answers import rows

FILE = "model.onnx"
ANTIALIAS_OPSET = 18
"""The first version of ONNX whose resize looks at all pixels when it shrinks."""
LEAST_PX = 24
"""Sides below which no network of the catalogue sees anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lower:
    is_reshaping: ClassVar[bool] = True
    is_training: ClassVar[bool] = False
    name: ClassVar[str]
    share: ClassVar[float]

    def lacks(self) -> str:
        """ONNX itself, which is edited."""
        return "" if importlib.util.find_spec("onnx") else "package onnx (pip install 'loopworks[optimize]')"

    def unfit(self, source: Origin) -> str:
        """What is no image, and networks whose positions are learnt for one size."""
        rule = source.bundle.rule
        if not isinstance(rule, ImageRule):
            return "a model of images"
        if min(rule.height, rule.width) * self.share < LEAST_PX:
            return f"images of at least {LEAST_PX / self.share:.0f} pixels"
        return "a network of convolutions" if graph.is_transformer(source.onnx) else ""

    def run(self, source: Origin, ctx: Context) -> Variant:
        """Put a resize before everything else.

        Raises: Failed: the network takes images of one size alone.
        """
        import onnx
        import onnx.version_converter

        ctx.tick(0.0, f"shrink the input of {self.name}")
        rule = source.bundle.rule
        assert isinstance(rule, ImageRule)
        model = onnx.load(str(source.onnx))
        if any(one.domain == "" and one.version < ANTIALIAS_OPSET for one in model.opset_import):
            model = onnx.version_converter.convert_version(model, ANTIALIAS_OPSET)
        _shrink(model, round(rule.height * self.share), round(rule.width * self.share))
        path = source.folder / FILE
        path.write_bytes(model.SerializeToString(deterministic=True))
        _compare(source, path)
        return Variant(
            name=self.name,
            runtime="onnxruntime",
            precision="fp32",
            file=FILE,
            files=(FILE,),
            size_bytes=path.stat().st_size,
        )


@plugins.add("optimize.lower75")
@dataclass(frozen=True, slots=True, kw_only=True)
class Lower75(_Lower):
    """The same weights with images of three quarters of the height and width: about half the work."""

    name: ClassVar[str] = "lower75"
    share: ClassVar[float] = 0.75


@plugins.add("optimize.lower50")
@dataclass(frozen=True, slots=True, kw_only=True)
class Lower50(_Lower):
    """The same weights with images of half the height and width: about a quarter of the work."""

    name: ClassVar[str] = "lower50"
    share: ClassVar[float] = 0.5


def _shrink(model: Any, height: int, width: int) -> None:
    """Resize the only input, pixels ``(batch, height, width, 3)``, with antialias as the rule's own resize has."""
    from onnx import TensorProto, helper, numpy_helper

    (pixels,) = model.graph.input
    sides = [axis.dim_value for axis in pixels.type.tensor_type.shape.dim][1:3]
    scales = np.array([1, height / sides[0], width / sides[1], 1], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(scales, "lower.scales"))
    for node in model.graph.node:
        node.input[:] = ["lower.pixels" if name == pixels.name else name for name in node.input]
    float_ = helper.make_node("Cast", [pixels.name], ["lower.float"], "lower.cast", to=TensorProto.FLOAT)
    resize = helper.make_node(
        "Resize",
        ["lower.float", "", "lower.scales"],
        ["lower.pixels"],
        "lower.resize",
        mode="linear",
        antialias=1,
        coordinate_transformation_mode="half_pixel",
    )
    model.graph.node.insert(0, resize)
    model.graph.node.insert(0, float_)
    del model.graph.value_info[:]  # shapes between the layers are others now


def _compare(source: Origin, path: Any) -> None:
    """Answers must have the shapes that they had."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    feed = {name: np.ascontiguousarray(values) for name, values in rows(source.calibration, slice(2)).items()}
    shapes = []
    for file in (source.onnx, path):
        try:
            session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            shapes.append([found.shape for found in session.run(None, feed)])
        except Exception as error:  # ONNX Runtime raises a class of its own per fault, all of them private
            first = str(error).strip().splitlines()[0]
            raise Failed(f"the network must take smaller images; it takes one size alone ({first[:120]})") from None
    if shapes[0] != shapes[1]:
        raise Failed(f"answers must keep their shapes with smaller images; got {shapes[1]} for {shapes[0]}")
