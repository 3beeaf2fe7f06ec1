"""Making the variants of a model and judging each on the validation split, as it comes."""

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Arrays, Context, Predictor
from loopworks.core.errors import Cancelled, Failed, LoopworksError, NoSpace
from loopworks.core.registry import plugins
from loopworks.data.source import Source
from loopworks.optimize import measure
from loopworks.optimize.contracts import Learn, Maker, Origin, Reshaping
from loopworks.tasks import scores
from loopworks.tasks.answers import answers, rows, size

log = logging.getLogger(__name__)
CALIBRATION = 128
"""Training images that ranges are read from; more change the accuracy by less than its interval."""
MAKER_LIMIT_S = 120.0
"""Seconds that making one variant may take; one that trains has its own budget."""
MAKING_S = 90.0
"""Seconds after which no further variant is begun, so that a tournament ends within three minutes."""


@dataclass(slots=True, kw_only=True)
class Entry:
    """One variant in the tournament."""

    variant: Variant
    predictor: Predictor
    graph: Path
    """The fp32 ONNX file that it was made of; of an fp32 ONNX variant, its own."""
    maker: str = ""
    val: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Answers on the validation split."""
    value: float = 0.0
    """Headline metric on the validation split."""


@dataclass(kw_only=True)
class Tournament:
    """One tournament as it goes on; ``stage.optimize`` runs it."""

    bundle: Bundle
    source: Source
    part: Path
    """Folder of the new bundle."""
    max_drop: float
    threads: int
    ctx: Context
    """Of the whole tournament; its seed picks the calibration images."""
    learn: Learn | None = None
    budget_s: float = 120.0
    entries: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    making_s: float = 0.0
    """Spent on variants that need no training."""

    def run(self, names: list[str], ctx: Context) -> None:
        """Make and judge: the model as it is, its variants, then other graphs and the best kind of variant of these.

        Args:
            names: full names of makers.
            ctx: progress 0..1 of this.
        """
        plain = [name for name in names if not isinstance(plugins.get(name), Reshaping)]
        graphs = [name for name in names if name not in plain]
        steps = 1 + len(plain) + 2 * len(graphs)
        parts = iter([ctx.part(place / steps, (place + 1) / steps) for place in range(steps)])
        base = self._enter(self.bundle.variants[0], self.part / self.bundle.variants[0].file, "", next(parts))
        for name in plain:
            self.make(name, base, next(parts))
        self.entries[1:] = sorted(self.entries[1:], key=lambda entry: entry.variant.name)
        best = self._quickest() if graphs else ""
        for name in graphs:
            made = self.make(name, base, next(parts))
            step = next(parts)
            if made is not None and not made.variant.is_refused and best:
                self.make(best, made, step)

    def make(self, full: str, of: Entry, ctx: Context) -> Entry | None:
        """Let a maker work on the graph of an entry; where it cannot, a note says why."""
        maker: Maker = plugins.get(full)()
        name = full.partition(".")[2]
        shown = name if of is self.entries[0] else f"{of.variant.name}-{name}"
        ctx.tick(0.0, f"make {shown}")
        if lacking := maker.lacks():
            self.notes.append(f"{shown} was left out: it needs {lacking}")
            return None
        trains = isinstance(maker, Reshaping) and maker.is_training
        if not trains and self.making_s > MAKING_S:
            self.notes.append(f"{shown} was left out: making the others took {self.making_s:.0f} s")
            return None
        origin = self._origin(of, shown)
        if unfit := maker.unfit(origin):
            self.notes.append(f"{shown} was left out: it needs {unfit}")
            return None
        origin.folder.mkdir()
        limit_s = 3 * self.budget_s + 60 if trains else MAKER_LIMIT_S
        began = time.monotonic()
        try:
            made = _inside(maker.run(origin, _limited(ctx.part(0.0, 0.8), limit_s)), shown)
            graph = self.part / made.file if isinstance(maker, Reshaping) else of.graph
            entry = self._enter(made, graph, full, ctx.part(0.8, 1.0))
        except (Cancelled, NoSpace):
            raise
        except Exception as error:  # a third party's quantizer may raise anything; the others still compete
            shutil.rmtree(origin.folder)
            self.notes.append(f"{shown} could not be made: {_first_line(error)}")
            log.warning("variant failed name=%s error=%s", shown, error)
            return None
        finally:
            if not trains:
                self.making_s += time.monotonic() - began
        log.info("variant made name=%s seconds=%.1f", shown, time.monotonic() - began)
        return entry

    def close(self) -> None:
        """Free what was loaded."""
        for entry in self.entries:
            entry.predictor.close()

    @property
    def base(self) -> Entry:
        """The model as it is."""
        return self.entries[0]

    @cached_property
    def val(self) -> Arrays:
        """Validation items, packed."""
        return self.source.inputs(self.bundle.rule, "val", self.ctx.tick)

    @cached_property
    def targets(self) -> NDArray[Any]:
        """The truth of these."""
        return self.source.targets("val")

    @cached_property
    def calibration(self) -> Arrays:
        """Some training items, packed."""
        items = self.source.inputs(self.bundle.rule, "train")
        picks = np.random.default_rng(self.ctx.seed).permutation(size(items))[:CALIBRATION]
        return rows(items, np.sort(picks))

    def score(self, outputs: Arrays) -> float:
        """Headline metric of answers for all of ``val``."""
        return scores.headline(self.source.task, self.targets, outputs, self.bundle.schema)

    @cached_property
    def _encoded(self) -> tuple[Arrays, Arrays]:
        """Calibration and validation items as the graph takes them."""
        rule = predictors.opened(self.bundle.rule, self.bundle.folder)
        return rule.encode(self.calibration), rule.encode(self.val)

    def _origin(self, of: Entry, name: str) -> Origin:
        return Origin(
            bundle=self.bundle,
            onnx=of.graph,
            calibration=self._encoded[0],
            folder=self.part / name,
            val=self._encoded[1],
            score=self.score,
            max_drop=self.max_drop,
            tried={
                entry.maker.partition(".")[2]: entry.variant.is_refused
                for entry in self.entries
                if entry.graph == of.graph and entry.maker
            },
            source=self.source,
            learn=self.learn,
            budget_s=self.budget_s,
            threads=self.threads,
        )

    def _enter(self, variant: Variant, graph: Path, maker: str, ctx: Context) -> Entry:
        """Load a variant, let it answer the validation split, and refuse it where it is outside the budget."""
        predictor = predictors.load(variant, self.part, self.bundle.rule, threads=self.threads)
        entry = Entry(variant=variant, predictor=predictor, graph=graph, maker=maker)
        try:
            self._judge(entry, ctx)
        except BaseException:
            predictor.close()
            raise
        self.entries.append(entry)
        return entry

    def _judge(self, entry: Entry, ctx: Context) -> None:
        task, schema = self.source.task, self.bundle.schema
        name = entry.variant.name
        entry.val = answers(entry.predictor, self.val, tick=lambda share: ctx.tick(share, f"score {name} on val"))
        base = self.entries[0] if self.entries else entry
        is_finite = all(bool(np.isfinite(values).all()) for values in entry.val.values())
        found = scores.score(task, self.targets, entry.val, schema, seed=self.ctx.seed)
        entry.value = found[task.headline].value
        agreement = task.agreement(base.val, entry.val, schema)
        entry.variant = replace(entry.variant, metrics={"val": found}, agreement=agreement, is_refused=False, note="")
        if entry is base:
            return
        if not is_finite:
            entry.variant = replace(entry.variant, is_refused=True, note="some answers are not finite numbers")
        elif why := refusal(base.value - entry.value, agreement, self.max_drop):
            lost = measure.worst_classes(task, schema, self.targets, base.val, entry.val)
            note = f"{why}; worst hit: {lost}" if lost else why
            entry.variant = replace(entry.variant, is_refused=True, note=note)

    def _quickest(self) -> str:
        """The maker whose variant of the model as it is answers quickest and is allowed; empty: that is fp32."""
        allowed = [entry for entry in self.entries if not entry.variant.is_refused]
        item = rows(self.val, slice(1))
        times = {entry.maker: measure.quick_s(entry.predictor, item) for entry in allowed}
        return min(times, key=lambda name: times[name], default="")


def refusal(drop: float, agreement: float, max_drop: float) -> str:
    """Why a variant may not be chosen; empty where it may. Differences below one billionth are rounding."""
    if drop > max_drop + 1e-9:
        return f"drops {drop:.4f} on val, more than {max_drop:g}"
    least = 1 - max(3 * max_drop, 0.05)
    if agreement < least - 1e-9:
        return f"answers like fp32 on {agreement:.3f} of val, less than {least:.3f}"
    return ""


def _limited(ctx: Context, limit_s: float) -> Context:
    """The same context, whose tick fails once the time is over; makers tick at every batch."""
    end = time.monotonic() + limit_s

    def report(share: float, text: str) -> None:
        if time.monotonic() > end:
            raise Failed(f"it must be made within {limit_s:.0f} s; got no end")
        ctx.report(share, text)

    return replace(ctx, report=report)


def _inside(variant: Variant, name: str) -> Variant:
    """The variant with the name of its folder, and its paths below the bundle instead of that folder."""
    files = tuple(f"{name}/{file}" for file in variant.files)
    return replace(variant, name=name, file=f"{name}/{variant.file}", files=files)


def _first_line(error: Exception) -> str:
    text = error.message if isinstance(error, LoopworksError) else f"{type(error).__name__}: {error}"
    return (text.strip().splitlines() or [type(error).__name__])[0][:300]
