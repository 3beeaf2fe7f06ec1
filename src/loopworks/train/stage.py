"""What a user can do here: list the recipes, and train one on a version's labeled items."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from loopworks.core import bundle as bundles
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Context
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.core.values import Score
from loopworks.data.source import Source
from loopworks.tasks.answers import answers
from loopworks.train import card, judge, recipes
from loopworks.train.contracts import Lesson, Made, Packed, Shared, Workers
from loopworks.train.recipes import AUTO
from loopworks.train.sealed import seal

LEARNING = "learning.tsv"
WARNING = "warning:"
"""How a note begins that says why a model or its scores are worth less than they look; a tag of the run repeats it."""
FEW = 20
"""Items of a split below which it says little."""
SHORTEST_S = 5.0


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
    workers: Workers | None = None,
    prune: float = 0.0,
    is_still: bool = False,
) -> Bundle:
    """Train a recipe and write the bundle; the same source, parameters and seed give the same weights.

    Args:
        source: labeled items in splits; ``train`` is learnt from, ``val`` chooses the epoch, ``test`` is only reported:
            recipes cannot reach it.
        recipe: name in the registry with or without ``train.``, or ``auto``: the recipes say themselves which of them
            suits the data.
        params: parameters of the recipe; what is left out keeps its default.
        budget_s: seconds for training, export and scoring, from the moment that the libraries are loaded; kept within
            10 % (the last batch is finished). ``None``: as many epochs as the recipe wants. A budget that binds
            makes the result depend on the machine's speed.
        folder: where the bundle is written; appears whole or not at all.
        ctx: a killed training that runs again with the same ``ctx.scratch`` goes on from its last checkpoint.
        start: earlier model whose weights to begin from.
        threads: 0 is one per core.
        workers: processes that train a network together; recipes of another kind train here, and a note says so.
        prune: share of the channels of every layer that ``start`` loses first, in 0..1 (networks on images).
        is_still: leave the weights of ``start`` as they are, and make it anew for another size of images.
    Returns: the bundle, with its scores on ``val`` and ``test`` taken from the ONNX file, an evaluation and a card.
    Raises: Invalid, NotFound, Conflict, Missing, Failed, Cancelled, NoSpace.
    """
    check(source, budget_s, threads)
    given = dict(params or {})
    learnt = seal(source)
    name, why = _named(recipe, learnt, budget_s, given)
    step = recipes.step(name, given, source.task.name)
    part = bundles.part_of(folder)
    try:
        inputs = Packed(learnt)
        # What comes after the recipe takes time too; of a short budget it may have a fifth.
        left_s = None if budget_s is None else budget_s - min(0.2 * budget_s, judge.seconds(source.counts))
        lesson = Lesson(
            source=learnt,
            inputs=inputs,
            folder=part,
            budget_s=left_s,
            start=start,
            threads=threads,
            workers=workers,
            prune=prune,
            is_still=is_still,
        )
        key = _key(source, name, given, budget_s, ctx.seed)
        learning = judge.Learning(ctx.scratch / LEARNING, key)
        made: Made = step.run(lesson, _told(ctx, learning).part(0.0, 0.9))
        if workers is not None and workers.count > 1:
            why = (*why, shared(plugins.get(name), workers.count))
        if budget_s is not None and budget_s < SHORTEST_S:
            why = (*why, f"{WARNING} a budget of {budget_s:g} s is less than a training needs to learn anything")
        made = replace(made, notes=(*why, *made.notes))
        done = finish(source, name, made, inputs, part, learning.to_json(), threads=threads, ctx=ctx.part(0.9, 1.0))
        bundles.settle(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    ctx.tick(1.0, "trained")
    return replace(done, folder=folder)


def finish(
    source: Source,
    name: str,
    made: Made,
    inputs: Packed,
    folder: Path,
    learning: Mapping[str, Any],
    *,
    threads: int,
    ctx: Context,
    extra: Mapping[str, Any] | None = None,
) -> Bundle:
    """Judge what a recipe made, now that nothing is chosen any more, and write bundle, evaluation and card.

    Args:
        source: with its test split, which is read here for the first time.
        name: of the recipe.
        made: its files lie in ``folder``.
        inputs: what is packed already.
        folder: of the bundle.
        learning: curves of the training.
        threads: 0 is one per core.
        ctx: progress 0..1 of this.
        extra: goes into the bundle's parameters, e.g. how a search found them.
    """
    metrics, splits = _judged(source, made, inputs.of(source), folder, threads, ctx)
    notes = (*made.notes, *_warnings(source, splits))
    body = judge.write(source.task, splits, learning, folder)
    bundle = bundle_of(source, name, replace(made, notes=notes, params={**made.params, **(extra or {})}), metrics)
    (folder / card.FILE).write_text(card.markdown(bundle, body), encoding="utf-8")
    return bundles.write(bundle, folder)


def check(source: Source, budget_s: float | None, threads: int) -> None:
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


def _named(
    recipe: str, source: Source, budget_s: float | None, params: Mapping[str, Any]
) -> tuple[str, tuple[str, ...]]:
    """Full name of the recipe, and a note of why where it was chosen for the user."""
    if recipe != AUTO:
        return recipes.full(recipe), ()
    name, why = recipes.choose(source, budget_s, params)
    return name, (f"recipe chosen: {name.partition('.')[2]} ({why})",)


def shared(kind: type, count: int) -> str:
    """A note that says who trains."""
    if isinstance(kind, Shared):
        return f"each batch was split over {count} workers of a Ray cluster"
    return f"trained by one process, not {count} workers: only networks are trained by several"


def _told(ctx: Context, learning: judge.Learning) -> Context:
    """The same context, whose metrics are kept for the card too."""

    def metric(name: str, step: int, value: float) -> None:
        learning(name, step, value)
        ctx.metric(name, step, value)

    return replace(ctx, metric=metric)


def _key(source: Source, name: str, params: Mapping[str, Any], budget_s: float | None, seed: int) -> str:
    facts = [source.id, dict(source.counts), name, dict(params), budget_s, seed]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _judged(
    source: Source, made: Made, inputs: Packed, folder: Path, threads: int, ctx: Context
) -> tuple[dict[str, dict[str, Score]], dict[str, Any]]:
    """Scores and evaluation on val and test, from the answers of the file that will be deployed."""
    predictor = predictors.load(made.variant, folder, made.rule, threads=threads)
    schema = replace(source.schema, costs=made.costs)
    metrics: dict[str, dict[str, Score]] = {}
    splits: dict[str, Any] = {}
    try:
        for split, step in (("val", ctx.part(0.0, 0.5)), ("test", ctx.part(0.5, 1.0))):
            if source.counts.get(split, 0):
                items = inputs.get(made.rule, split, step.part(0.0, 0.5))
                outputs = answers(predictor, items, tick=partial(_tick, step.part(0.5, 1.0), split))
                metrics[split], splits[split] = judge.evaluate(
                    source.task, schema, source.targets(split), outputs, source.facts(split), seed=ctx.seed
                )
    finally:
        predictor.close()
    return metrics, splits


def _tick(ctx: Context, split: str, share: float) -> None:
    ctx.tick(share, f"score {split}")


def _warnings(source: Source, splits: Mapping[str, Any]) -> list[str]:
    """What makes model or scores worth less than they look."""
    found = []
    if (count := source.counts["train"]) < FEW:
        found.append(f"{WARNING} the train split holds {_items(count)}: hardly anything can be learnt from so few")
    if "val" not in splits:
        found.append(f"{WARNING} there is no val split: nothing could be chosen by how good it is")
    if "test" not in splits:
        found.append(f"{WARNING} there is no test split: how good the model is on new items is not known")
    elif (count := splits["test"]["count"]) < FEW:
        found.append(f"{WARNING} the test split holds {_items(count)}: the scores say little (see their intervals)")
    elif len(by_class := splits["test"]["by_class"]) == 1:
        found.append(
            f"{WARNING} the test split holds {next(iter(by_class))} alone: the scores say nothing of the others"
        )
    return found


def _items(count: int) -> str:
    return f"{count} item{'' if count == 1 else 's'}"


def bundle_of(source: Source, name: str, made: Made, metrics: Mapping[str, Mapping[str, Score]]) -> Bundle:
    """What a recipe made as a bundle that is not written yet."""
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
