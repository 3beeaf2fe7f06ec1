"""A tournament of variants: made, measured, and one chosen on the validation split alone."""

import logging
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from loopworks.core import bundle as bundles
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Arrays, Context, Predictor
from loopworks.core.errors import Cancelled, Failed, Invalid, LoopworksError, NoSpace, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import Score
from loopworks.data.source import Source
from loopworks.optimize import measure
from loopworks.optimize.contracts import Maker, Origin
from loopworks.tasks import scores
from loopworks.tasks.answers import answers, rows, size

log = logging.getLogger(__name__)

Target = Literal["latency", "throughput", "size"]
TARGETS: tuple[Target, ...] = ("latency", "throughput", "size")
CALIBRATION = 128
"""Training images that ranges are read from; more change the accuracy by less than its interval."""
MAKER_LIMIT_S = 120.0
TIE = 0.05
"""Variants within this share of the best are as good as it: measurements repeat no better."""


def makers() -> list[dict[str, str]]:
    """Every variant that can be made: ``name``, ``about``, and ``lacks``, what this machine lacks for it."""
    found = []
    for name in plugins.names("optimize"):
        kind = plugins.get(name)
        about = (kind.__doc__ or "").strip().splitlines()[0]
        found.append({"name": name.partition(".")[2], "about": about, "lacks": kind().lacks()})
    return found


@dataclass(slots=True, kw_only=True)
class Entry:
    """One variant in the tournament."""

    variant: Variant
    predictor: Predictor
    val: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Answers on the validation split."""
    value: float = 0.0
    """Headline metric on the validation split."""


def optimize(
    bundle: Bundle,
    source: Source,
    *,
    folder: Path,
    max_drop: float = 0.01,
    target: Target = "latency",
    ctx: Context,
    threads: int = 0,
    variants: Sequence[str] | None = None,
) -> Bundle:
    """Make and measure variants of a model, and choose one.

    A variant may be chosen where, on the same validation items as fp32, its headline metric is at most ``max_drop``
    lower *and* it gives the same answer on all but ``max(3 * max_drop, 0.05)`` of them: a variant whose many changed
    answers cancel out on a few hundred items is another model, not a faster one. Of these the best on ``target``
    wins; of variants within 5 % of the best, the smallest, then the earliest. fp32 may always be chosen. The test
    split is scored after that, and reported.

    Args:
        bundle: a model whose first variant is its fp32 ONNX file.
        source: the version that it learnt from (calibration uses ``train``, the choice ``val``, the report ``test``).
        folder: where the new bundle is written; appears whole or not at all.
        max_drop: the accuracy budget, a share in 0..1.
        target: latency (p50 of one item), throughput (items/s at the best batch size) or size (bytes).
        ctx: the seed picks the calibration images.
        threads: of one call; 0 is one per core.
        variants: names of makers, with or without ``optimize.``; ``None`` is all.
    Returns: a new bundle with the fp32 variant and all others, refused ones marked.
    Raises: Invalid, NotFound, Conflict, Damaged, Cancelled, NoSpace.
    """
    names = _check(bundle, source, max_drop, target, variants)
    bundles.check_files(bundle)
    part = bundles.part_of(folder)
    entries: list[Entry] = []
    try:
        for name in bundle.sha256:
            if name in _kept(bundle):
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.path(name), part / name)
        base = bundle.variants[0]
        entries.append(Entry(variant=base, predictor=predictors.load(base, part, bundle.rule, threads=threads)))
        notes = _make(names, bundle, source, part, entries, threads, ctx.part(0.0, 0.5))
        _judge(entries, bundle, source, max_drop, ctx.part(0.5, 0.6))
        timed = measure.speeds(
            {entry.variant.name: entry.predictor for entry in entries},
            rows(source.inputs(bundle.rule, "val"), slice(max(measure.BATCHES))),
            ctx.part(0.6, 0.9),
        )
        for entry in entries:
            speed = timed[entry.variant.name]
            entry.variant = replace(
                entry.variant, latency_ms=speed.latency_ms(), throughput_per_s=speed.throughput_per_s()
            )
        chosen = choose([entry.variant for entry in entries], target)
        _report(entries, bundle, source, ctx.part(0.9, 1.0))
        done = bundles.write(
            replace(
                bundle,
                variants=tuple(entry.variant for entry in entries),
                chosen=chosen.name,
                measured_on=measure.machine(threads),
                notes=(*bundle.notes, *notes, _why(chosen, base.name, target, max_drop)),
            ),
            part,
        )
        bundles.settle(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        for entry in entries:
            entry.predictor.close()
    ctx.tick(1.0, f"chose {chosen.name}")
    return replace(done, folder=folder)


def choose(variants: Sequence[Variant], target: Target) -> Variant:
    """The best of the variants that are not refused; of those within 5 % of it the smallest, then the earliest.

    Args:
        variants: measured; the first is fp32, which is never refused.
        target: what to be best at.
    """
    allowed = [variant for variant in variants if not variant.is_refused]
    costs = {variant.name: _cost(variant, target) for variant in allowed}
    limit = min(costs.values()) * (1 + TIE)
    return min((v for v in allowed if costs[v.name] <= limit), key=lambda variant: variant.size_bytes)


def _cost(variant: Variant, target: Target) -> float:
    if target == "latency":
        return variant.latency_ms["p50"]
    if target == "throughput":
        return 1.0 / (variant.throughput_per_s or 1e-9)
    return float(variant.size_bytes)


def check_request(max_drop: float, target: str, variants: Sequence[str] | None) -> list[str]:
    """Refuse parameters that make no sense, without looking at a model; the full names of the makers."""
    if not 0 <= max_drop <= 1:
        raise Invalid("max_drop", "a share between 0 and 1", max_drop)
    if target not in TARGETS:
        raise Invalid("target", ", ".join(TARGETS), target)
    known = plugins.names("optimize")
    if variants is None:
        return known
    names = [name if name.startswith("optimize.") else f"optimize.{name}" for name in variants]
    for name in names:
        if name not in known:
            raise NotFound("variant", name.partition(".")[2], [other.partition(".")[2] for other in known])
    return list(dict.fromkeys(names))


def _check(bundle: Bundle, source: Source, max_drop: float, target: str, variants: Sequence[str] | None) -> list[str]:
    """Refuse what makes no sense before any work; the full names of the makers."""
    names = check_request(max_drop, target, variants)
    if replace(source.schema, costs=bundle.schema.costs) != bundle.schema:
        raise Invalid(
            "classes of the version",
            f"those of the model ({', '.join(bundle.schema.classes)})",
            ", ".join(source.schema.classes),
            "optimize with the version that the model learnt from",
        )
    for split, need in (("val", "the choice is made on it"), ("train", "int8 reads its ranges from it")):
        if not source.counts.get(split, 0):
            raise Invalid(
                f"{split} split",
                f"at least one labeled item ({need})",
                dict(source.counts),
                "freeze a version with train and val splits",
            )
    if not bundle.variants or bundle.variants[0].precision != "fp32" or not bundle.variants[0].file.endswith(".onnx"):
        raise Invalid("bundle", "one whose first variant is fp32 ONNX", [v.name for v in bundle.variants])
    return names


def _kept(bundle: Bundle) -> set[str]:
    """Files of the new bundle that come from the old one: all but those of variants that are made again."""
    gone = {file for variant in bundle.variants[1:] for file in variant.files}
    return set(bundle.sha256) - (gone - set(bundle.variants[0].files))


def _make(
    names: Iterable[str], bundle: Bundle, source: Source, part: Path, entries: list[Entry], threads: int, ctx: Context
) -> list[str]:
    """Add an entry per variant that could be made and asked; the others become notes."""
    wanted = list(names)
    packed = _calibration(source, bundle, ctx)
    calibration = predictors.opened(bundle.rule, bundle.folder).encode(packed)
    notes = []
    for place, full in enumerate(wanted):
        name = full.partition(".")[2]
        step = ctx.part(place / len(wanted), (place + 1) / len(wanted))
        step.tick(0.0, f"make {name}")
        maker: Maker = plugins.get(full)()
        if lacking := maker.lacks():
            notes.append(f"{name} was left out: it needs {lacking}")
            continue
        origin = Origin(bundle=bundle, onnx=part / bundle.variants[0].file, calibration=calibration, folder=part / name)
        if unfit := maker.unfit(origin):
            notes.append(f"{name} was left out: it needs {unfit}")
            continue
        origin.folder.mkdir()
        began = time.monotonic()
        try:
            variant = _inside(maker.run(origin, _limited(step, MAKER_LIMIT_S)), name)
            predictor = predictors.load(variant, part, bundle.rule, threads=threads)
            predictor.predict(rows(packed, slice(1)))
        except (Cancelled, NoSpace):
            raise
        except Exception as error:  # a third party's quantizer may raise anything; the others still compete
            shutil.rmtree(origin.folder)
            notes.append(f"{name} could not be made: {_first_line(error)}")
            log.warning("variant failed name=%s error=%s", name, error)
            continue
        log.info("variant made name=%s seconds=%.1f", name, time.monotonic() - began)
        entries.append(Entry(variant=variant, predictor=predictor))
    return notes


def _calibration(source: Source, bundle: Bundle, ctx: Context) -> Arrays:
    items = source.inputs(bundle.rule, "train", ctx.part(0.0, 0.1).tick)
    picks = np.random.default_rng(ctx.seed).permutation(size(items))[:CALIBRATION]
    return rows(items, np.sort(picks))


def _limited(ctx: Context, limit_s: float) -> Context:
    """The same context, whose tick fails once the time is over; makers tick at every batch."""
    end = time.monotonic() + limit_s

    def report(share: float, text: str) -> None:
        if time.monotonic() > end:
            raise Failed(f"it must be made within {limit_s:.0f} s; got no end")
        ctx.report(share, text)

    return replace(ctx, report=report)


def _inside(variant: Variant, name: str) -> Variant:
    """The variant with its paths below the bundle instead of its own folder."""
    return replace(variant, file=f"{name}/{variant.file}", files=tuple(f"{name}/{file}" for file in variant.files))


def _judge(entries: Sequence[Entry], bundle: Bundle, source: Source, max_drop: float, ctx: Context) -> None:
    """Answers, metrics and agreement on the validation split; refuse what is outside the accuracy budget."""
    task, schema = source.task, bundle.schema
    targets = source.targets("val")
    items = source.inputs(bundle.rule, "val", ctx.tick)
    base = entries[0]
    for entry in entries:
        entry.val = answers(entry.predictor, items, tick=lambda share: ctx.tick(share, "score val"))
        is_finite = all(bool(np.isfinite(values).all()) for values in entry.val.values())
        found = scores.score(task, targets, entry.val, schema, seed=ctx.seed)
        entry.value = found[task.headline].value
        agreement = task.agreement(base.val, entry.val, schema)
        entry.variant = replace(entry.variant, metrics={"val": found}, agreement=agreement)
        if entry is base:
            continue
        if not is_finite:
            entry.variant = replace(entry.variant, is_refused=True, note="some answers are not finite numbers")
        elif why := _refusal(base.value - entry.value, agreement, max_drop):
            lost = measure.worst_classes(task, schema, targets, base.val, entry.val)
            note = f"{why}; worst hit: {lost}" if lost else why
            entry.variant = replace(entry.variant, is_refused=True, note=note)


def _refusal(drop: float, agreement: float, max_drop: float) -> str:
    """Why a variant may not be chosen; empty where it may. Differences below one billionth are rounding."""
    if drop > max_drop + 1e-9:
        return f"drops {drop:.4f} on val, more than {max_drop:g}"
    least = 1 - max(3 * max_drop, 0.05)
    if agreement < least - 1e-9:
        return f"answers like fp32 on {agreement:.3f} of val, less than {least:.3f}"
    return ""


def _report(entries: Sequence[Entry], bundle: Bundle, source: Source, ctx: Context) -> None:
    """Score the test split of every variant; nothing is decided by it."""
    if not source.counts.get("test", 0):
        return
    items = source.inputs(bundle.rule, "test", ctx.tick)
    targets = source.targets("test")
    for entry in entries:
        outputs = answers(entry.predictor, items, tick=lambda share: ctx.tick(share, "score test"))
        test: dict[str, Score] = scores.score(source.task, targets, outputs, bundle.schema, seed=ctx.seed)
        entry.variant = replace(entry.variant, metrics={**entry.variant.metrics, "test": test})


def _why(chosen: Variant, base: str, target: Target, max_drop: float) -> str:
    if chosen.name == base:
        return f"{base} stays: no other variant within {max_drop:g} of its accuracy has a better {target}"
    return f"{chosen.name} was chosen by {target} on the validation split, within {max_drop:g} of {base}"


def _first_line(error: Exception) -> str:
    text = error.message if isinstance(error, LoopworksError) else f"{type(error).__name__}: {error}"
    return (text.strip().splitlines() or [type(error).__name__])[0][:300]
