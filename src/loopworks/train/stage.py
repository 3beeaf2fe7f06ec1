"""What a user can do here: list the recipes, and train one on a version's labeled items."""

import shutil
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from loopworks.core import bundle as bundles
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Context, Step
from loopworks.core.errors import Conflict, Invalid, LoopworksError, NotFound
from loopworks.core.registry import plugins
from loopworks.core.settings import invalid
from loopworks.core.values import Score
from loopworks.data.source import Source
from loopworks.tasks import scores
from loopworks.tasks.answers import answers
from loopworks.train import small_cnn, timm
from loopworks.train.contracts import Lesson, Made, Packed
from loopworks.train.images import TINY_PX
from loopworks.train.small_cnn import is_tiny

AUTO = "auto"
SHORT_S = 60.0
"""A budget under which no pretrained backbone is worth its start."""


def recipes() -> list[dict[str, Any]]:
    """Every recipe: ``name``, ``about`` (one sentence) and ``schema``, the JSON schema of its parameters."""
    found = []
    for name in plugins.names("train"):
        kind = plugins.get(name)
        about = (kind.__doc__ or "").strip().splitlines()[0]
        found.append({"name": name.partition(".")[2], "about": about, "schema": schema_of(kind)})
    return found


def schema_of(kind: type) -> dict[str, Any]:
    """JSON schema of a step's parameters, with the text under each field, also of fields that it inherits."""
    schema: dict[str, Any] = TypeAdapter(kind).json_schema()
    for base in kind.__mro__[1:]:
        if not is_dataclass(base):
            continue
        for name, inherited in TypeAdapter(base).json_schema().get("properties", {}).items():
            if "description" in inherited:
                schema["properties"][name].setdefault("description", inherited["description"])
    return schema


def train(
    source: Source,
    *,
    recipe: str = AUTO,
    params: Mapping[str, Any] | None = None,
    budget_s: float | None = None,
    folder: Path,
    ctx: Context,
    start: Bundle | None = None,
    threads: int = 0,
) -> Bundle:
    """Train a recipe and write the bundle; the same source, parameters and seed give the same weights.

    Args:
        source: labeled items in splits; ``train`` is learnt from, ``val`` chooses the epoch, ``test`` is only reported.
        recipe: name in the registry with or without ``train.``, or ``auto``.
        params: parameters of the recipe; what is left out keeps its default.
        budget_s: seconds for training, export and scoring, from the moment that the libraries are loaded; kept within
            10 % (the last batch is finished). ``None``: as many epochs as the recipe wants. A budget that binds
            makes the result depend on the machine's speed.
        folder: where the bundle is written; appears whole or not at all.
        ctx: a killed training that runs again with the same ``ctx.scratch`` goes on from its last checkpoint.
        start: earlier model whose weights to begin from.
        threads: 0 is one per core.
    Returns: the bundle, with its scores on ``val`` and ``test`` taken from the ONNX file.
    Raises: Invalid, NotFound, Conflict, Missing, Failed, Cancelled, NoSpace.
    """
    _check(source, budget_s, threads)
    name, why = _named(recipe, source, budget_s)
    step = _step(name, params or {})
    part = _part(folder)
    try:
        inputs = Packed(source)
        lesson = Lesson(source=source, inputs=inputs, folder=part, budget_s=budget_s, start=start, threads=threads)
        made: Made = step.run(lesson, ctx.part(0.0, 0.9))
        made = replace(made, notes=(*why, *made.notes))
        metrics = _scores(source, made, inputs, part, threads, ctx.part(0.9, 1.0))
        done = bundles.write(_bundle(source, name, made, metrics), part)
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    ctx.tick(1.0, "trained")
    return replace(done, folder=folder)


def _check(source: Source, budget_s: float | None, threads: int) -> None:
    """Refuse what no recipe can learn from, before any work."""
    if budget_s is not None and not 0 < budget_s < 1e9:
        raise Invalid("budget_s", "above 0 seconds", budget_s)
    if not 0 <= threads <= 1024:
        raise Invalid("threads", "between 0 and 1024", threads)
    if source.counts.get("train", 0) < 1:
        raise Invalid(
            "train split", "at least one labeled item", dict(source.counts), "label some items, then freeze again"
        )
    source.task.teachable(source.targets("train"), source.schema)


def check_params(recipe: str, params: Mapping[str, Any]) -> None:
    """Refuse an unknown recipe or parameters that it does not take, before a job is made of them.

    With ``auto`` the data decides later which recipe it will be, so one that takes the parameters is enough.

    Raises: NotFound, Invalid: as for the first recipe where none takes them.
    """
    if recipe != AUTO:
        _step(recipe if recipe.startswith("train.") else f"train.{recipe}", params)
        return
    refused: LoopworksError | None = None
    for name in plugins.names("train"):
        try:
            _step(name, params)
        except LoopworksError as error:
            refused = refused or error
        else:
            return
    if refused is not None:
        raise refused


def _named(recipe: str, source: Source, budget_s: float | None) -> tuple[str, tuple[str, ...]]:
    """Full name of the recipe, and a note of why where it was chosen for the user."""
    if recipe != AUTO:
        return (recipe if recipe.startswith("train.") else f"train.{recipe}"), ()
    if is_tiny(source):
        return small_cnn.NAME, (f"recipe chosen: small-cnn (images of at most {TINY_PX} pixels)",)
    if budget_s is not None and budget_s < SHORT_S:
        return small_cnn.NAME, (f"recipe chosen: small-cnn (a budget under {SHORT_S:.0f} s)",)
    if timm.has_weights():
        return timm.NAME, ("recipe chosen: timm (pretrained weights are in the cache)",)
    return small_cnn.NAME, ("recipe chosen: small-cnn (no pretrained weights in the cache)",)


def _step(name: str, params: Mapping[str, Any]) -> Step[Lesson, Made]:
    kind = plugins.get(name)
    if unknown := sorted(set(params) - {field.name for field in fields(kind)}):
        raise NotFound(f"parameter of {name}", unknown[0], [field.name for field in fields(kind)])
    try:
        step: Step[Lesson, Made] = TypeAdapter(kind).validate_python(dict(params))
    except ValidationError as error:
        raise invalid(error, {field.name: f"{name}.{field.name}" for field in fields(kind)}) from None
    return step


def _part(folder: Path) -> Path:
    """An empty folder beside ``folder``, which must not hold anything; what a killed run left there goes."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"folder {folder} must be empty or absent; got something in it", "choose another folder")
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def _scores(
    source: Source, made: Made, inputs: Packed, folder: Path, threads: int, ctx: Context
) -> dict[str, dict[str, Score]]:
    """Scores on val and test, from the answers of the file that will be deployed."""
    predictor = predictors.load(made.variant, folder, made.rule, threads=threads)
    schema = replace(source.schema, costs=made.costs)
    found = {}
    try:
        for split, step in (("val", ctx.part(0.0, 0.5)), ("test", ctx.part(0.5, 1.0))):
            if source.counts.get(split, 0):
                items = inputs.get(made.rule, split, step.part(0.0, 0.5))
                outputs = answers(predictor, items, tick=partial(_tick, step.part(0.5, 1.0), split))
                found[split] = scores.score(source.task, source.targets(split), outputs, schema, seed=ctx.seed)
    finally:
        predictor.close()
    return found


def _tick(ctx: Context, split: str, share: float) -> None:
    ctx.tick(share, f"score {split}")


def _bundle(source: Source, name: str, made: Made, metrics: Mapping[str, Mapping[str, Score]]) -> Bundle:
    variant = replace(made.variant, metrics=metrics)
    return Bundle(
        task=source.task.name,
        schema=replace(source.schema, costs=made.costs),
        rule=made.rule,
        inputs=made.rule.inputs(),
        outputs=source.task.outputs(source.schema),
        version=source.id,
        recipe=name,
        params=made.params,
        variants=(variant,),
        chosen=variant.name,
        metrics=metrics,
        notes=made.notes,
    )
