"""A recipe of one file: the class whose mean image is nearest. A baseline that trains in no time and needs no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core.bundle import Variant
from loopworks.core.contracts import Context
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule
from loopworks.data.source import Source
from loopworks.train.contracts import Draw, Lesson, Made

FILE = "model.onnx"
ROUNDS = 5


@plugins.add("train.means")
@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """The class whose mean image is nearest: a baseline that every network must beat."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")
    tasks: ClassVar[frozenset[str]] = frozenset({"image-classification"})

    size: Annotated[int, Field(ge=2, le=64)] = 8
    """Height and width that images are resized to, in pixels."""
    sharpness: Annotated[float, Field(gt=0, le=1000)] = 10.0
    """How sure the nearest class makes the model, no unit."""
    shrink: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share by which every mean is pulled towards the mean of all images."""

    @classmethod
    def fitness(cls, source: Source, budget_s: float | None) -> tuple[float, str]:
        """For those who have no second to spare."""
        return (0.95, "a budget under 2 s") if budget_s is not None and budget_s < 2 else (0.1, "a plain baseline")

    @classmethod
    def space(cls, draw: Draw, source: Source) -> Mapping[str, Any]:
        """What a search may change."""
        return {
            "size": draw.choice("size", (4, 8, 16)),
            "sharpness": draw.number("sharpness", 1, 100, log=True),
            "shrink": draw.number("shrink", 0, 1),
        }

    def run(self, source: Lesson, ctx: Context) -> Made:
        """Take the means, in rounds that a search can watch, and write the model as ONNX."""
        rule = ImageRule(height=self.size, width=self.size)
        pixels = source.inputs.get(rule, "train", ctx.part(0.0, 0.3))["image"] / np.float32(255)
        labels = source.source.targets("train")
        has_val = bool(source.source.counts.get("val", 0))
        means = np.zeros((labels.shape[1], *pixels.shape[1:]), np.float32)
        for turn in range(1, ROUNDS + 1):
            ctx.tick(0.3 + 0.6 * turn / ROUNDS, f"round {turn}")
            some = slice(0, max(1, len(pixels) * turn // ROUNDS))
            means = self._means(pixels[some], labels[some])
            if has_val:
                ctx.metric("val_headline", turn, self._score(means, rule, source, ctx))
        write(means, self.sharpness, rule, source.folder / FILE)
        ctx.tick(1.0, "written")
        return Made(
            variant=Variant(
                name="onnx-fp32",
                runtime="onnxruntime",
                precision="fp32",
                file=FILE,
                files=(FILE,),
                size_bytes=(source.folder / FILE).stat().st_size,
            ),
            rule=rule,
            params=asdict(self),
        )

    def _means(self, pixels: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.float32]:
        counts = np.maximum(labels.sum(axis=0), 1)
        means = np.einsum("nc,nhwk->chwk", labels, pixels) / counts[:, None, None, None]
        return np.asarray((1 - self.shrink) * means + self.shrink * pixels.mean(axis=0), np.float32)

    def _score(self, means: NDArray[np.float32], rule: ImageRule, lesson: Lesson, ctx: Context) -> float:
        pixels = lesson.inputs.get(rule, "val", ctx)["image"] / np.float32(255)
        apart = ((pixels[:, None] - means) ** 2).mean(axis=(2, 3, 4))
        truth = lesson.source.targets("val").argmax(axis=1)
        return float((apart.argmin(axis=1) == truth).mean())


def write(means: NDArray[np.float32], sharpness: float, rule: ImageRule, path: Any) -> None:
    """The model as a graph of pixels: softmax of minus the squared distance to each mean."""
    from onnx import TensorProto, helper, numpy_helper

    classes = len(means)
    flat = means.reshape(classes, -1).astype(np.float64)
    scale = sharpness * 10 / flat.shape[1]
    # |x - m|^2 is |x|^2 - 2 x m + |m|^2, and |x|^2 is the same for all classes.
    weights = (2 * scale * flat.T / 255).astype(np.float32)
    offsets = (-scale * (flat**2).sum(axis=1)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["float"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights", "offsets"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
        ],
        "means",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", rule.height, rule.width, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(offsets, "offsets")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString(deterministic=True))
