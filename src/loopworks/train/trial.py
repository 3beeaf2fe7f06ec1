"""One trial of a search: train a recipe with some parameters, and judge it by the validation split alone."""

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from loopworks.core import predictor as predictors
from loopworks.core import rules
from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Context
from loopworks.core.errors import Cancelled, Failed, LoopworksError, NoSpace
from loopworks.data.source import Source
from loopworks.tasks import scores
from loopworks.tasks.answers import answers
from loopworks.train import judge, recipes, stage
from loopworks.train.contracts import Lesson, Made, Packed

State = Literal["done", "pruned", "failed"]
HEADLINE = "val_headline"
MADE, FILES, CURVES = "made.json", "files", "learning.tsv"
Watch = Callable[[int, float], bool]
"""Takes the step and the headline on val; true: the trial is not worth going on with."""

Weigh = Callable[[Bundle, Path], tuple[str, float, float]]
"""Takes a trial's model and a folder to work in; gives the quickest form of it that is accurate enough, the time of one
item in milliseconds, and the headline on val. Stages do not import each other, so whoever optimizes is handed in."""


class Pruned(Cancelled):
    """A trial is given up because others did better by now; recipes let it through like any cancel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a trial is to do; plain values, so that it can go to another machine."""

    number: int
    recipe: str
    """Full name of the plug-in."""
    params: Mapping[str, Any]
    budget_s: float | None
    seed: int
    threads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How a trial went."""

    number: int
    recipe: str
    params: Mapping[str, Any]
    """Parameters that it was given; those left out had their defaults."""
    state: State
    value: float | None
    """The headline on val, from the written file; ``None`` where the trial did not end."""
    seconds: float
    note: str = ""
    points: Mapping[str, Any] = field(default_factory=dict)
    """Curves: name -> pairs of step and value."""
    variant: str = ""
    """Where a search has a latency budget: the quickest form of the model that is accurate enough."""
    latency_ms: float | None = None
    """Of that form."""
    is_too_slow: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, without the curves."""
        return {
            "number": self.number,
            "recipe": self.recipe,
            "params": dict(self.params),
            "state": self.state,
            "value": self.value,
            "seconds": round(self.seconds, 2),
            "note": self.note,
            **(
                {"variant": self.variant, "latency_ms": self.latency_ms, "is_too_slow": self.is_too_slow}
                if self.variant
                else {}
            ),
        }


def attempt(
    order: Order, source: Source, folder: Path, ctx: Context, *, start: Bundle | None = None, watch: Watch | None = None
) -> Trial:
    """Run one trial; its files and ``made.json`` lie in ``folder`` afterwards where it is done.

    Args:
        order: what to do.
        source: without its test split.
        folder: of this trial alone; a killed trial that runs again goes on from its checkpoint there.
        ctx: progress 0..1 of this trial.
        start: earlier model to begin from.
        watch: may end the trial early.
    Raises: Cancelled: the user stopped the search. NoSpace. All else is a failed trial.
    """
    began = time.monotonic()
    learning = judge.Learning(folder / CURVES, f"trial {order.number}")

    def metric(name: str, step: int, value: float) -> None:
        learning(name, step, value)
        if name == HEADLINE and watch is not None and watch(step, value):
            raise Pruned

    state: State = "done"
    value, note = None, ""
    try:
        value = _run(order, source, folder, replace(ctx, seed=order.seed, scratch=folder, metric=metric), start)
    except Pruned:
        state, note = "pruned", "others did better by then"
    except (Cancelled, NoSpace):
        raise
    except LoopworksError as error:
        state, note = "failed", error.message
    if state != "done":
        shutil.rmtree(folder / FILES, ignore_errors=True)
    return Trial(
        number=order.number,
        recipe=order.recipe,
        params=order.params,
        state=state,
        value=value,
        seconds=time.monotonic() - began,
        note=note[:300],
        points=learning.to_json(),
    )


def _run(order: Order, source: Source, folder: Path, ctx: Context, start: Bundle | None) -> float:
    files = folder / FILES
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir(parents=True)
    inputs = Packed(source)
    step = recipes.step(order.recipe, order.params, source.task.name)
    lesson = Lesson(
        source=source, inputs=inputs, folder=files, budget_s=order.budget_s, start=start, threads=order.threads
    )
    made: Made = step.run(lesson, ctx.part(0.0, 0.95))
    predictor = predictors.load(made.variant, files, made.rule, threads=order.threads)
    try:
        outputs = answers(predictor, inputs.get(made.rule, "val", ctx.part(0.95, 1.0)))
    finally:
        predictor.close()
    (folder / MADE).write_text(json.dumps(_plain(made), allow_nan=False), encoding="utf-8")
    schema = replace(source.schema, costs=made.costs)
    value = scores.headline(source.task, source.targets("val"), outputs, schema)
    if not math.isfinite(value):
        raise Failed(f"{source.task.headline} on val must be a finite number; got {value}")
    return value


def weighed(made: Trial, source: Source, folder: Path, weigh: Weigh, latency_ms: float) -> Trial:
    """A trial that is done, with how quick it is; a failed one where that cannot be found out.

    Args:
        made: the trial.
        source: without its test split.
        folder: of the trial.
        weigh: see ``Weigh``.
        latency_ms: the budget.
    Raises: Cancelled, NoSpace.
    """
    bundle = stage.bundle_of(source, made.recipe, made_of(folder), {})
    try:
        variant, ms, value = weigh(replace(bundle, folder=folder / FILES), folder / "weighed")
    except (Cancelled, NoSpace):
        raise
    except LoopworksError as error:
        return replace(made, state="failed", value=None, note=error.message[:300])
    finally:
        shutil.rmtree(folder / "weighed", ignore_errors=True)
    is_too_slow = ms > latency_ms
    note = f"{variant} takes {ms:.3g} ms" + (", too slow" if is_too_slow else "")
    return replace(made, value=value, variant=variant, latency_ms=ms, is_too_slow=is_too_slow, note=note)


def made_of(folder: Path) -> Made:
    """What a trial that is done made; its files lie in ``FILES`` below ``folder``."""
    body = json.loads((folder / MADE).read_text(encoding="utf-8"))
    return Made(
        variant=Variant.from_json(body["variant"]),
        rule=rules.read(body["rule"]),
        params=body["params"],
        notes=tuple(body["notes"]),
        costs=tuple(body["costs"]),
    )


def _plain(made: Made) -> dict[str, Any]:
    return {
        "variant": made.variant.to_json(),
        "rule": made.rule.to_json(),
        "params": dict(made.params),
        "notes": list(made.notes),
        "costs": list(made.costs),
    }
