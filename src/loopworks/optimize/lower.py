"""The same weights asked with smaller images: the graph shrinks what it gets, so that nothing changes for clients.

Most networks take images of any size as they are. Of one that has places, anchors or shapes for one size in its graph
(detectors, segmenters), the graph is made anew from its weights for the smaller size, where it was trained here.
"""

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from loopworks.core.bundle import Variant
from loopworks.core.contracts import Context
from loopworks.core.errors import Failed
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule
from loopworks.optimize import graph
from loopworks.optimize.contracts import Origin
from loopworks.optimize.learnt import WEIGHTS, own, silent, workplace
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

        ctx.tick(0.0, f"shrink the input of {self.name}")
        rule = source.bundle.rule
        assert isinstance(rule, ImageRule)
        path = source.folder / FILE
        try:
            _write(onnx.load(str(source.onnx)), (rule.height, rule.width), self.share, path)
            _compare(source, path)
        except Failed:
            if not _can_make_anew(source):
                raise
            ctx.tick(0.1, f"make the graph of {self.name} anew")
            made, share = _anew(source, ctx.part(0.1, 0.9), self.name, self.share)
            _write(made, (rule.height, rule.width), share, path)
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


def _write(model: Any, size: tuple[int, int], share: float | tuple[float, float], path: Path) -> None:
    """Put a resize before everything else, from ``size`` to a share of it (of height and width), and save.

    The only input is pixels ``(batch, height, width, 3)``; the resize has antialias, as the rule's own has.
    """
    import onnx.version_converter
    from onnx import TensorProto, helper, numpy_helper

    if any(one.domain == "" and one.version < ANTIALIAS_OPSET for one in model.opset_import):
        model = onnx.version_converter.convert_version(model, ANTIALIAS_OPSET)
    (pixels,) = model.graph.input
    for axis, side in zip(pixels.type.tensor_type.shape.dim[1:3], size, strict=True):
        axis.dim_value = side
    shares = (share, share) if isinstance(share, float) else share
    sides = [round(side * part) for side, part in zip(size, shares, strict=True)]
    # A runtime rounds down what it multiplies: a hair more, so that 0.7 of 320 is 224 and not 223.
    scales = np.array([1, (sides[0] + 1e-3) / size[0], (sides[1] + 1e-3) / size[1], 1], np.float32)
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
    path.write_bytes(model.SerializeToString(deterministic=True))


def _can_make_anew(source: Origin) -> bool:
    """Whether the model was trained here, by a recipe that takes the size of images."""
    bundle = source.bundle
    return (
        source.learn is not None
        and source.source is not None
        and WEIGHTS in bundle.sha256
        and bundle.recipe in plugins.names("train")
        and "image_size" in own(bundle.recipe, bundle.params)
    )


def _anew(source: Origin, ctx: Context, name: str, share: float) -> tuple[Any, tuple[float, float]]:
    """The graph for smaller images, and the share of height and width that they have: sides are rounded as the recipe
    wants them."""
    import onnx

    bundle, rule = source.bundle, source.bundle.rule
    assert isinstance(rule, ImageRule)
    assert source.learn is not None
    assert source.source is not None
    scratch, folder = workplace(ctx, name)
    params = own(bundle.recipe, bundle.params)
    made = source.learn(
        source.source,
        recipe=bundle.recipe,
        params={**params, "image_size": round(max(rule.height, rule.width) * share)},
        budget_s=None,
        folder=folder,
        ctx=silent(ctx, scratch),
        start=bundle,
        threads=source.threads,
        is_still=True,
    )
    try:
        if not isinstance(made.rule, ImageRule) or made.rule.height * made.rule.width >= rule.height * rule.width:
            raise Failed(f"{name} must take smaller images than the model; {bundle.recipe} makes it {made.rule}")
        model = onnx.load(str(made.path(made.variants[0].file)))
        return model, (made.rule.height / rule.height, made.rule.width / rule.width)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _compare(source: Origin, path: Any) -> None:
    """Answers must have the shapes that they had, but for axes that the task kind leaves open (grids of masks)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    feed = {name: np.ascontiguousarray(values) for name, values in rows(source.calibration, slice(2)).items()}
    free = {spec.name: [place for place, side in enumerate(spec.shape) if side < 0] for spec in source.bundle.outputs}
    shapes = []
    for file in (source.onnx, path):
        try:
            session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            names = [output.name for output in session.get_outputs()]
            shapes.append([
                [-1 if place and place in free.get(name, ()) else side for place, side in enumerate(found.shape)]
                for name, found in zip(names, session.run(names, feed), strict=True)
            ])
        except Exception as error:  # ONNX Runtime raises a class of its own per fault, all of them private
            first = str(error).strip().splitlines()[0]
            raise Failed(f"the network must take smaller images; it takes one size alone ({first[:120]})") from None
    if shapes[0] != shapes[1]:
        raise Failed(f"answers must keep their shapes with smaller images; got {shapes[1]} for {shapes[0]}")
