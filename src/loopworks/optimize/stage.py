"""The tournament: make every variant, measure it, choose the best one inside the accuracy budget."""

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from loopworks.core import bundle as bundles
from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Arrays, Context, Predictor
from loopworks.core.errors import Cancelled, Invalid, LoopworksError, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import Score
from loopworks.data.source import Source
from loopworks.optimize import measure
from loopworks.optimize.contracts import Made, Original
from loopworks.tasks.answers import answers

log = logging.getLogger(__name__)
Target = Literal["latency", "throughput", "size"]
CALIBRATION = 256
TIE = 0.05
"""Variants this close on the target count as equal; the one that agrees more with the original then wins."""
SPLITS = ("val", "test")


def optimize(
    bundle: Bundle,
    source: Source,
    *,
    folder: Path,
    ctx: Context,
    max_drop: float = 0.01,
    target: str = "latency",
    variants: Sequence[str] | None = None,
    threads: int = 0,
) -> Bundle:
    """Make and measure variants of a model and choose one; the choice uses the validation split alone.

    A variant is refused where it loses more than ``max_drop`` of the headline metric on the validation items, or
    where its answers differ from the original's on more than ``max(0.02, 3 * max_drop)`` of them: with few items a
    metric can stay the same by luck while the answers change, and each changed answer is a risk nobody has measured.

    Args:
        bundle: the trained model; its first variant must be fp32 ONNX.
        source: the version that it learnt from.
        folder: an empty folder for the new bundle.
        ctx: progress, stop, seed of the calibration sample, scratch.
        max_drop: how much of the headline metric may be lost, in 0..1.
        target: latency (p50 of one item), throughput (items per second) or size (bytes on disk).
        variants: makers by name without ``optimize.``; ``None`` takes all.
        threads: of a prediction; 0 is one per core.
    Returns: the new bundle with every variant, its figures and the reason where it was refused.
    Raises:
        Invalid: a parameter, or no validation items to choose by.
        NotFound: an unknown maker.
    """
    makers = _makers(max_drop, target, variants)
    if not source.counts.get("val"):
        raise Invalid(
            "validation split", "of at least one item, to choose by", 0, "split with val=0.1 and freeze again"
        )
    first = bundle.variants[0]
    _copy_files(bundle, folder)
    rng = np.random.default_rng(ctx.seed)
    images = source.pixels(bundle.rule, "train", ctx.part(0.0, 0.05).tick)
    picked = np.sort(rng.permutation(len(images))[:CALIBRATION])
    made, notes = _make(makers, bundle, first, images[picked], folder, ctx.part(0.05, 0.5))
    done = _measured([first, *made], bundle, source, folder, threads, ctx.part(0.5, 1.0))
    judged = _judged(done, source, max_drop)
    chosen = choose(judged, target)
    ctx.tick(1.0, f"{chosen.name} wins")
    result = replace(
        bundle,
        variants=tuple(judged),
        chosen=chosen.name,
        metrics=chosen.metrics,
        measured_on=measure.machine(threads),
        notes=(*bundle.notes, *notes),
    )
    return bundles.write(result, folder)


def choose(variants: Sequence[Variant], target: str) -> Variant:
    """The best variant that is not refused; within 5 % of it the one that agrees most with the original."""
    cost: dict[str, Callable[[Variant], float]] = {
        "latency": lambda v: v.latency_ms["p50"],
        "throughput": lambda v: -(v.throughput_per_s or 0.0),
        "size": lambda v: float(v.size_bytes),
    }
    allowed = [variant for variant in variants if not variant.is_refused]
    best = min(cost[target](variant) for variant in allowed)
    near = [variant for variant in allowed if cost[target](variant) <= best + TIE * abs(best)]
    return max(near, key=lambda variant: (variant.agreement or 0.0, -cost[target](variant)))


def _makers(max_drop: float, target: str, variants: Sequence[str] | None) -> list[str]:
    if not 0 <= max_drop <= 1:
        raise Invalid("max_drop", "between 0 and 1", max_drop)
    if target not in get_args(Target):
        raise Invalid("target", f"one of {', '.join(get_args(Target))}", target)
    known = [name.partition(".")[2] for name in plugins.names("optimize")]
    for name in variants or ():
        if name not in known:
            raise NotFound("variant", name, known)
    return [name for name in known if variants is None or name in variants]


def _copy_files(bundle: Bundle, folder: Path) -> None:
    for relative in bundle.sha256:
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path(relative), target)


def _make(
    makers: Sequence[str], bundle: Bundle, first: Variant, samples: NDArray[np.uint8], folder: Path, ctx: Context
) -> tuple[list[Variant], list[str]]:
    """All variants that could be made, and a note for each that could not."""
    made: list[Variant] = []
    notes: list[str] = []
    for i, name in enumerate(makers):
        part = ctx.part(i / len(makers), (i + 1) / len(makers))
        part.tick(0.0, f"making {name}")
        place = folder / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        began = time.monotonic()
        try:
            original = Original(bundle=bundle, variant=first, samples=samples, folder=place)
            found: Made = plugins.get(f"optimize.{name}")().run(original, part)
        except Cancelled:
            raise
        except Exception as error:  # a tool that fails on one graph must not end the tournament
            shutil.rmtree(place)
            reason = error.message if isinstance(error, LoopworksError) else f"{type(error).__name__}: {error}"
            hint = f" ({error.hint})" if isinstance(error, LoopworksError) and error.hint else ""
            notes.append(f"{name} was left out: {reason.splitlines()[0]}{hint}")
            log.warning("variant left out name=%s reason=%s", name, reason)
            continue
        log.info("variant made name=%s seconds=%.1f", name, time.monotonic() - began)
        files = sorted(path.relative_to(folder).as_posix() for path in place.rglob("*") if path.is_file())
        made.append(
            Variant(
                name=name,
                runtime=found.runtime,
                precision=found.precision,
                file=f"{name}/{found.file}",
                files=tuple(files),
                size_bytes=sum((folder / file).stat().st_size for file in files),
            )
        )
    return made, notes


def _measured(
    variants: Sequence[Variant], bundle: Bundle, source: Source, folder: Path, threads: int, ctx: Context
) -> list[Variant]:
    """Every variant with its scores, agreement and speed; one that does not run is refused."""
    name = bundle.inputs[0].name
    pixels = {
        split: source.pixels(bundle.rule, split, ctx.part(0.0, 0.05).tick)
        for split in SPLITS
        if source.counts.get(split)
    }
    predictors: dict[str, Predictor] = {}
    done: list[Variant] = []
    reference: Arrays = {}
    try:
        for i, variant in enumerate(variants):
            ctx.tick(0.05 + 0.35 * i / len(variants), f"scoring {variant.name}")
            runtime = plugins.get(f"runtime.{variant.runtime}")()
            predictor = runtime.load(folder / variant.file, threads=threads, precision=variant.precision)
            predictors[variant.name] = predictor
            outputs = {
                split: answers(predictor, images, name, tick=lambda _: ctx.tick(0.1, "scoring"))
                for split, images in pixels.items()
            }
            reference = reference or outputs["val"]
            metrics: Mapping[str, Mapping[str, Score]] = {
                split: source.task.score(source.targets(split), found, source.schema, seed=ctx.seed)
                for split, found in outputs.items()
            }
            agreement = source.task.agreement(reference, outputs["val"], source.schema)
            done.append(replace(variant, metrics=metrics, agreement=agreement))
        timed = measure.speeds(predictors, name, pixels["val"], ctx.part(0.4, 1.0))
    finally:
        for predictor in predictors.values():
            predictor.close()
    return [
        replace(
            variant,
            latency_ms=timed[variant.name].latency_ms,
            throughput_per_s=timed[variant.name].throughput_per_s,
        )
        for variant in done
    ]


def _judged(variants: Sequence[Variant], source: Source, max_drop: float) -> list[Variant]:
    """Refuse what loses too much on validation, or answers too differently; the original always stays."""
    headline = source.task.headline
    original = variants[0].metrics["val"][headline].value
    least = 1.0 - max(0.02, 3 * max_drop)
    judged = [replace(variants[0], is_refused=False)]
    for variant in variants[1:]:
        drop = original - variant.metrics["val"][headline].value
        reasons = []
        if drop > max_drop + 1e-9:
            reasons.append(f"{headline} drops by {drop:.3f}, allowed is {max_drop:g}")
        if (variant.agreement or 0.0) < least:
            reasons.append(f"only {variant.agreement:.3f} of its answers are the original's, needed is {least:g}")
        judged.append(replace(variant, is_refused=bool(reasons), note="; ".join(reasons)))
    return judged
