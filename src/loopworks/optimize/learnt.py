"""Variants that are trained: channels taken out and fine-tuned, or a smaller network taught by the model's answers."""

import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core import predictor as predictors
from loopworks.core.bundle import Variant
from loopworks.core.contracts import Arrays, Chances, Context, Learnable, Rule
from loopworks.core.errors import Failed
from loopworks.core.registry import plugins
from loopworks.core.values import ImageRule, LabelSchema
from loopworks.data.source import Progress, Sized, Source
from loopworks.optimize import graph
from loopworks.optimize.contracts import Origin
from loopworks.tasks.answers import answers

FILE, WEIGHTS = "model.onnx", "model.safetensors"
SLOWER = 0.3
"""Of the learning rate that the model was trained with, for what needs fine-tuning alone."""
STUDENT = "train.small-cnn"
WIDTH, LEAST_WIDTH = 16, 4
SOFTEN = 0.5
"""Power that the teacher's chances are raised to (temperature 2); source: Hinton et al. 2015, "Distilling the
knowledge in a neural network"."""
TAUGHT = 0.7
"""Share of the target that is the teacher's answer; the rest is the label."""


@plugins.add("optimize.pruned")
@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """A share of the channels of every layer taken out, the least important first, and the rest fine-tuned."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    is_reshaping: ClassVar[bool] = True
    is_training: ClassVar[bool] = True

    share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Channels that go, as a share of each layer's."""

    def lacks(self) -> str:
        """The library that follows channels through a network."""
        missing = [name for name in ("torch", "torch_pruning") if not importlib.util.find_spec(name)]
        return f"package {', '.join(missing)} (pip install 'loopworks[train]')" if missing else ""

    def unfit(self, source: Origin) -> str:
        """Models that cannot be trained on, and networks without convolutions."""
        if source.learn is None or WEIGHTS not in source.bundle.sha256:
            return "a model that was trained here"
        if not isinstance(source.bundle.rule, ImageRule) or graph.is_transformer(source.onnx):
            return "a network of convolutions on images"
        return ""

    def run(self, source: Origin, ctx: Context) -> Variant:
        """Train on from the model, fewer channels; at most ``source.budget_s``."""
        bundle = source.bundle
        taken = _own(bundle.recipe, bundle.params)
        if "rate" in taken:
            taken["rate"] *= SLOWER
        taken.pop("epochs", None)
        taken.pop("patience", None)
        return _learnt(source, ctx, "pruned", bundle.recipe, taken, source.source, prune=self.share)


@plugins.add("optimize.distilled")
@dataclass(frozen=True, slots=True, kw_only=True)
class Distilled:
    """A smaller network from random weights that learns the model's own chances beside the labels."""

    is_reshaping: ClassVar[bool] = True
    is_training: ClassVar[bool] = True

    def lacks(self) -> str:
        """Torch."""
        return "" if importlib.util.find_spec("torch") else "package torch (pip install 'loopworks[train]')"

    def unfit(self, source: Origin) -> str:
        """What is no classifier of images of one side."""
        if source.learn is None or source.source is None:
            return "a version to train on"
        rule = source.bundle.rule
        is_square = isinstance(rule, ImageRule) and rule.height == rule.width
        return "" if is_square and isinstance(source.source.task, Chances) else "a classifier of square images"

    def run(self, source: Origin, ctx: Context) -> Variant:
        """Ask the model about the training images, then train; at most ``source.budget_s``."""
        bundle, version = source.bundle, source.source
        assert version is not None
        assert isinstance(bundle.rule, ImageRule)
        base = bundle.variants[0]
        teacher = predictors.load(base, bundle.folder, bundle.rule, threads=source.threads)
        try:
            said = answers(
                teacher, version.inputs(bundle.rule, "train"), tick=lambda share: ctx.tick(0.1 * share, "ask")
            )
        finally:
            teacher.close()
        (chances,) = said.values()
        targets = soften(version.targets("train"), chances, is_multi=version.schema.is_multi)
        width = int(bundle.params["width"]) // 2 if bundle.recipe == STUDENT else WIDTH
        params = {
            "image_size": bundle.rule.height,
            "fit": bundle.rule.fit,
            "width": max(LEAST_WIDTH, width),
            "smoothing": 0.0,
        }
        return _learnt(source, ctx.part(0.1, 1.0), "distilled", STUDENT, params, taught(version, targets))


def soften(labels: NDArray[Any], chances: NDArray[Any], *, is_multi: bool) -> NDArray[np.float32]:
    """The labels of a student: mostly the teacher's chances, drawn together.

    Args:
        labels: multi-hot rows, shape ``(items, classes)``.
        chances: the teacher's, of the same shape, in 0..1.
        is_multi: whether several classes may hold at once; else rows add up to 1.
    """
    soft = np.asarray(chances, np.float64)
    if not is_multi:
        soft = np.maximum(soft, 1e-9) ** SOFTEN
        soft /= soft.sum(axis=1, keepdims=True)
    return np.asarray(TAUGHT * soft + (1 - TAUGHT) * labels, np.float32)


def taught(source: Source, targets: NDArray[np.float32]) -> Source:
    """``source`` whose training labels are ``targets``; it tells the size of its images where ``source`` does."""
    return (_SizedTaught if isinstance(source, Sized) else _Taught)(source, targets)


class _Taught:
    """A version as a student sees it."""

    def __init__(self, source: Source, targets: NDArray[np.float32]) -> None:
        self._source, self._targets = source, targets

    @property
    def id(self) -> str:
        return self._source.id

    @property
    def task(self) -> Learnable:
        return self._source.task

    @property
    def schema(self) -> LabelSchema:
        return self._source.schema

    @property
    def counts(self) -> Mapping[str, int]:
        return self._source.counts

    def inputs(self, rule: Rule, split: str, progress: Progress | None = None) -> Arrays:
        return self._source.inputs(rule, split, progress)

    def targets(self, split: str) -> NDArray[Any]:
        return self._targets if split == "train" else self._source.targets(split)

    def facts(self, split: str) -> Sequence[Mapping[str, Any]]:
        return self._source.facts(split)


class _SizedTaught(_Taught):
    @property
    def typical_size(self) -> tuple[int, int]:
        assert isinstance(self._source, Sized)
        return self._source.typical_size


def _own(recipe: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Of the parameters that a bundle tells, those that its recipe takes."""
    known = {field.name for field in fields(plugins.get(recipe))}
    return {name: value for name, value in params.items() if name in known}


def _learnt(
    source: Origin,
    ctx: Context,
    name: str,
    recipe: str,
    params: Mapping[str, Any],
    version: Source | None,
    *,
    prune: float = 0.0,
) -> Variant:
    """Train, and keep the graph alone."""
    assert source.learn is not None
    assert version is not None
    scratch = ctx.scratch / f"optimize-{name}"
    folder = scratch / "bundle"
    shutil.rmtree(folder, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    made = source.learn(
        version,
        recipe=recipe,
        params=params,
        budget_s=source.budget_s,
        folder=folder,
        ctx=replace(ctx, scratch=scratch, metric=lambda *_: None, picture=lambda *_: None),
        start=source.bundle if prune else None,
        threads=source.threads,
        prune=prune,
    )
    if made.rule != source.bundle.rule:
        raise Failed(f"{name} must take images as the model does ({source.bundle.rule}); got {made.rule}")
    shutil.copyfile(made.path(made.variants[0].file), source.folder / FILE)
    shutil.rmtree(folder)
    size = (source.folder / FILE).stat().st_size
    return Variant(name=name, runtime="onnxruntime", precision="fp32", file=FILE, files=(FILE,), size_bytes=size)
