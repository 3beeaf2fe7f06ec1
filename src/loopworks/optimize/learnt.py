"""Variants that are trained: channels taken out and fine-tuned, or a smaller network taught by the model's answers."""

import importlib.util
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Arrays, Context, Learnable, Rule, Teaching
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
CONFIG = "config.json"
STUDENTS = ("train.small-cnn", "train.small-segmenter")
"""Recipes of students on images; the first one takes squares alone."""
WIDTH, LEAST_WIDTH, LEAST_HIDDEN = 16, 4, 16
"""Channels of a student's first layer where the model is of another recipe, and at least; least hidden layer."""
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
        taken = own(bundle.recipe, bundle.params)
        if "rate" in taken:
            taken["rate"] *= SLOWER
        taken.pop("epochs", None)
        taken.pop("patience", None)
        return _learnt(source, ctx, "pruned", bundle.recipe, taken, source.source, prune=self.share, start=bundle)


@plugins.add("optimize.distilled")
@dataclass(frozen=True, slots=True, kw_only=True)
class Distilled:
    """A smaller network that learns the model's own chances beside the labels."""

    is_reshaping: ClassVar[bool] = True
    is_training: ClassVar[bool] = True

    def lacks(self) -> str:
        """Torch."""
        return "" if importlib.util.find_spec("torch") else "package torch (pip install 'loopworks[train]')"

    def unfit(self, source: Origin) -> str:
        """Answers that say no more than labels do, and models that no smaller recipe takes the place of."""
        if source.learn is None or source.source is None:
            return "a version to train on"
        if not isinstance(source.source.task, Teaching):
            return "answers with a chance for each class or pixel: boxes and numbers teach no more than the labels do"
        return "" if _student(source.bundle) else "a classifier of square images or texts, or a segmenter"

    def run(self, source: Origin, ctx: Context) -> Variant:
        """Ask the model about the training items, then train; at most ``source.budget_s``."""
        bundle, version = source.bundle, source.source
        assert version is not None
        assert isinstance(version.task, Teaching)
        student = _student(bundle)
        assert student is not None
        base = bundle.variants[0]
        teacher = predictors.load(base, bundle.folder, bundle.rule, threads=source.threads)
        try:
            items = version.inputs(bundle.rule, "train")
            said = answers(teacher, items, tick=lambda share: ctx.tick(0.1 * share, "ask the teacher"))
        finally:
            teacher.close()
        targets = version.task.taught(version.targets("train"), said, version.schema, share=TAUGHT, seed=ctx.seed)
        recipe, params, start = student
        return _learnt(source, ctx.part(0.1, 1.0), "distilled", recipe, params, taught(version, targets), start=start)


def _student(bundle: Bundle) -> tuple[str, dict[str, Any], Bundle | None] | None:
    """Recipe and parameters of a smaller model that takes the same input, and what it begins from; ``None``: none.

    Of a model of one of the small recipes it is one of half the width; an encoder of texts keeps the first half of its
    layers, and learns on from them.
    Source: for encoders Sanh et al. 2019, "DistilBERT, a distilled version of BERT".
    """
    rule, recipe = bundle.rule, bundle.recipe
    params = own(recipe, bundle.params) if recipe in plugins.names("train") else {}
    if isinstance(rule, ImageRule):
        student = next((name for name in STUDENTS if bundle.task in plugins.get(name).tasks), "")
        if not student or (student == STUDENTS[0] and rule.height != rule.width):
            return None
        width = max(LEAST_WIDTH, int(params["width"]) // 2 if recipe == student else WIDTH)
        taken: dict[str, Any] = {"image_size": max(rule.height, rule.width), "fit": rule.fit, "width": width}
        return student, taken | ({"smoothing": 0.0} if student == STUDENTS[0] else {}), None
    usual = {"epochs": 0, "batch": 0, "patience": 0, "smoothing": 0.0}
    if recipe == "train.ngrams" and params.get("hidden"):
        return recipe, {**params, **usual, "hidden": max(LEAST_HIDDEN, params["hidden"] // 4)}, None
    if recipe == "train.text-encoder" and WEIGHTS in bundle.sha256:
        layers = _layers(bundle)
        if layers >= 2:
            return recipe, {**params, **usual, "rate": params["rate"] * SLOWER, "keep_layers": layers // 2}, bundle
    return None


def _layers(bundle: Bundle) -> int:
    """How many layers an encoder has, by its config.json; 0 where that does not say."""
    config = json.loads(bundle.path(CONFIG).read_text(encoding="utf-8"))
    return int(next((config[name] for name in ("num_hidden_layers", "n_layers", "num_layers") if name in config), 0))


def taught(source: Source, targets: NDArray[Any]) -> Source:
    """``source`` whose training labels are ``targets``; it tells the size of its images where ``source`` does."""
    return (_SizedTaught if isinstance(source, Sized) else _Taught)(source, targets)


class _Taught:
    """A version as a student sees it."""

    def __init__(self, source: Source, targets: NDArray[Any]) -> None:
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


def own(recipe: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Of the parameters that a bundle tells, those that its recipe takes."""
    known = {field.name for field in fields(plugins.get(recipe))}
    return {name: value for name, value in params.items() if name in known}


def workplace(ctx: Context, name: str) -> tuple[Path, Path]:
    """A scratch folder for a training, and the folder that its bundle is to be written to."""
    scratch = ctx.scratch / f"optimize-{name}"
    shutil.rmtree(scratch / "bundle", ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch, scratch / "bundle"


def silent(ctx: Context, scratch: Path) -> Context:
    """The same context for a training whose curves are nobody's business: those of the model are kept."""
    return replace(ctx, scratch=scratch, metric=lambda *_: None, picture=lambda *_: None)


def _learnt(
    source: Origin,
    ctx: Context,
    name: str,
    recipe: str,
    params: Mapping[str, Any],
    version: Source | None,
    *,
    prune: float = 0.0,
    start: Bundle | None = None,
) -> Variant:
    """Train, and keep the graph alone."""
    assert source.learn is not None
    assert version is not None
    scratch, folder = workplace(ctx, name)
    made = source.learn(
        version,
        recipe=recipe,
        params=params,
        budget_s=source.budget_s,
        folder=folder,
        ctx=silent(ctx, scratch),
        start=start,
        threads=source.threads,
        prune=prune,
    )
    if made.rule != source.bundle.rule:
        raise Failed(f"{name} must take items as the model does ({source.bundle.rule}); got {made.rule}")
    shutil.copyfile(made.path(made.variants[0].file), source.folder / FILE)
    shutil.rmtree(folder)
    size = (source.folder / FILE).stat().st_size
    return Variant(name=name, runtime="onnxruntime", precision="fp32", file=FILE, files=(FILE,), size_bytes=size)
