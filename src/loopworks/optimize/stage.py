"""A tournament of variants: made, measured, and one chosen on the validation split alone."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from loopworks.core import bundle as bundles
from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Context
from loopworks.core.errors import Invalid, NotFound
from loopworks.core.registry import plugins
from loopworks.core.values import Score
from loopworks.data.source import Source
from loopworks.optimize import front, measure
from loopworks.optimize.contracts import Learn, Reshaping
from loopworks.optimize.tournament import Entry, Tournament
from loopworks.tasks import scores
from loopworks.tasks.answers import answers, rows

log = logging.getLogger(__name__)

Target = Literal["latency", "throughput", "size"]
TARGETS: tuple[Target, ...] = ("latency", "throughput", "size")
BUDGET_S = 120.0
"""Seconds that a variant may train."""
PROMISING = ("openvino-int8", "openvino-bf16", "onnx-int8", "openvino-int8-accurate")
"""Makers that usually win; the others follow by name. One that asks how another one fared comes after it."""
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
    asked: Sequence[str] = (),
    budget_s: float = BUDGET_S,
    learn: Learn | None = None,
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
        variants: names of makers, with or without ``optimize.``; ``None`` is all that need no training.
        asked: more makers, such as those that train (pruned, distilled).
        budget_s: seconds that each of these may train.
        learn: how to train, for these.
    Returns: a new bundle with the fp32 variant and all others, refused ones marked.
    Raises: Invalid, NotFound, Conflict, Damaged, Cancelled, NoSpace.
    """
    names = _check(bundle, source, max_drop, target, variants, asked)
    bundles.check_files(bundle)
    part = bundles.part_of(folder)
    contest = Tournament(
        bundle=bundle,
        source=source,
        part=part,
        max_drop=max_drop,
        threads=threads,
        ctx=replace(ctx, report=_unsaid),
        learn=learn,
        budget_s=budget_s,
    )
    try:
        for name in bundle.sha256:
            if name in _kept(bundle):
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.path(name), part / name)
        contest.run(names, ctx.part(0.0, 0.6))
        _time(contest, ctx.part(0.6, 0.95))
        entries = contest.entries
        chosen = choose([entry.variant for entry in entries], target)
        _report(entries, bundle, source, ctx.part(0.95, 1.0))
        done = replace(
            bundle,
            variants=tuple(entry.variant for entry in entries),
            chosen=chosen.name,
            measured_on=measure.machine(threads),
            hosts={},
            notes=(*_kept_notes(bundle), *contest.notes, _why(chosen, entries[0].variant.name, target, max_drop)),
        )
        (part / front.FILE).write_text(front.svg(front.front(done)) + "\n", encoding="utf-8")
        done = bundles.write(done, part)
        bundles.settle(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        contest.close()
    ctx.tick(1.0, f"chose {chosen.name}")
    return replace(done, folder=folder)


WEIGHED = ("openvino-bf16", "openvino-int8", "onnx-int8")
"""Makers that a search asks for each of its models: they take seconds, and the best is nearly always theirs."""
WEIGHING_ROUNDS = 3


def weigh(
    bundle: Bundle, source: Source, *, folder: Path, max_drop: float, ctx: Context, threads: int = 0
) -> tuple[str, float, float]:
    """The quickest form of a model inside the accuracy budget, without a look at the test split: for searches.

    Args:
        bundle: a model whose only variant is its fp32 ONNX file; not written yet.
        source: the version that it learnt from.
        folder: to work in; what is left there is of no use.
        max_drop: see ``optimize``.
        ctx: progress, cancel, seed.
        threads: of one call.
    Returns: the variant's name, the milliseconds of one item, and the headline on val.
    """
    part = bundles.part_of(folder)
    shutil.copytree(bundle.folder, part, dirs_exist_ok=True)
    written = bundles.write(bundle, part)
    contest = Tournament(
        bundle=written, source=source, part=part, max_drop=max_drop, threads=threads, ctx=replace(ctx, report=_unsaid)
    )
    try:
        contest.run([f"optimize.{name}" for name in WEIGHED], ctx.part(0.0, 0.8))
        items = rows(contest.val, slice(1))
        allowed = {one.variant.name: one for one in contest.entries if not one.variant.is_refused}
        predictors = {name: one.predictor for name, one in allowed.items()}
        timed = measure.speeds(predictors, items, ctx.part(0.8, 1.0), rounds=WEIGHING_ROUNDS, batches=(1,))
        times = {name: found.latency_ms()["p50"] for name, found in timed.items()}
        best = min(times, key=lambda name: times[name])
        return best, times[best], allowed[best].value
    finally:
        contest.close()
        shutil.rmtree(part, ignore_errors=True)


def _unsaid(share: float, text: str) -> None:
    """Progress that somebody else tells."""


def _time(contest: Tournament, ctx: Context) -> None:
    """Speed, memory and start of all entries."""
    entries, items = contest.entries, rows(contest.val, slice(max(measure.BATCHES)))
    timed = measure.speeds({entry.variant.name: entry.predictor for entry in entries}, items, ctx.part(0.0, 0.7))
    bundle, threads = contest.bundle, contest.threads
    started = measure.footprints(
        [entry.variant for entry in entries],
        contest.part,
        bundle.rule,
        rows(items, slice(1)),
        threads,
        ctx.part(0.7, 1),
    )
    for entry in entries:
        per_s, batch = timed[entry.variant.name].throughput_per_s()
        found = started.get(entry.variant.name)
        entry.variant = replace(
            entry.variant,
            latency_ms=timed[entry.variant.name].latency_ms(),
            throughput_per_s=per_s,
            throughput_batch=batch,
            memory_bytes=found.memory_bytes if found else None,
            start_s=found.start_s if found else None,
        )


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


def check_request(
    max_drop: float, target: str, variants: Sequence[str] | None, asked: Sequence[str] = (), budget_s: float = BUDGET_S
) -> list[str]:
    """Refuse parameters that make no sense, without looking at a model; the full names of the makers."""
    if not 0 <= max_drop <= 1:
        raise Invalid("max_drop", "a share between 0 and 1", max_drop)
    if target not in TARGETS:
        raise Invalid("target", f"one of {', '.join(TARGETS)}", target)
    known = plugins.names("optimize")
    if not 1 <= budget_s <= 1e6:
        raise Invalid("budget of a variant that trains", "between 1 and 1000000 s", budget_s)
    names = [name if name.startswith("optimize.") else f"optimize.{name}" for name in (*(variants or ()), *asked)]
    for name in names:
        if name not in known:
            raise NotFound("variant", name.partition(".")[2], [other.partition(".")[2] for other in known])
    usual = [name for name in known if not _trains(name)] if variants is None else []
    return sorted(dict.fromkeys([*usual, *names]), key=lambda name: (_promise(name), name))


def _promise(name: str) -> int:
    """Place by what is hoped for: where time is short, it goes into what usually wins."""
    short = name.partition(".")[2]
    return PROMISING.index(short) if short in PROMISING else len(PROMISING)


def _trains(name: str) -> bool:
    kind = plugins.get(name)
    return isinstance(kind, Reshaping) and kind.is_training


def _check(
    bundle: Bundle,
    source: Source,
    max_drop: float,
    target: str,
    variants: Sequence[str] | None,
    asked: Sequence[str],
) -> list[str]:
    """Refuse what makes no sense before any work; the full names of the makers."""
    names = check_request(max_drop, target, variants, asked)
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


def _kept_notes(bundle: Bundle) -> list[str]:
    """Notes of the training; those of an earlier tournament are about variants that are made again."""
    said = (" was left out: ", " could not be made: ", " was chosen by ", " stays: no other variant within ")
    return [note for note in bundle.notes if not any(words in note for words in said)]


def _kept(bundle: Bundle) -> set[str]:
    """Files of the new bundle that come from the old one: all but those of variants that are made again."""
    gone = {file for variant in bundle.variants[1:] for file in variant.files} | {front.FILE}
    return set(bundle.sha256) - (gone - set(bundle.variants[0].files))


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
