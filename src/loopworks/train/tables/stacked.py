"""Several models in one: trees of different kinds and a linear model, weighed by how well they answer unseen rows."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core.contracts import Context
from loopworks.core.registry import plugins
from loopworks.data.source import Source
from loopworks.train.budget import Budget
from loopworks.train.contracts import Lesson, Made
from loopworks.train.tables import calibrate, members
from loopworks.train.tables.boost import Forest, Settings, out_of_fold
from loopworks.train.tables.calibrate import Calibration
from loopworks.train.tables.fit import Clock, TableFit, threads
from loopworks.train.tables.lightgbm import LARGE_ROWS, LightGbm, grow_folds, watched
from loopworks.train.tables.members import Member
from loopworks.train.tables.sheet import Sheet
from loopworks.train.tables.weighing import Weigher

NAME = "train.stacked"
ENOUGH_S = 60.0
"""Seconds from which a stack is worth its time."""
STEPS = 50
"""Steps of the search for weights: each adds one member once more."""
KINDS: Mapping[str, Mapping[str, Any]] = {
    "trees": {"rate": 0.05, "leaves": 31, "min_rows": 20, "feature_share": 0.8},
    "linear": {},
    "shallow": {"rate": 0.05, "leaves": 6, "min_rows": 30, "feature_share": 0.6, "row_share": 0.8},
    "random": {"rate": 0.05, "leaves": 64, "min_rows": 10, "feature_share": 0.8, "is_random": True},
    "deep": {"rate": 0.03, "leaves": 128, "min_rows": 5, "feature_share": 0.5, "row_share": 0.8, "l2": 5.0},
}
"""Members in the order in which they are tried, as long as there is time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """A member, with raw scores of the training rows by models that did not see them."""

    name: str
    member: Member
    raw: NDArray[np.float64]
    is_cut: bool = False
    """Whether the time budget ended its boosting."""


@plugins.add(NAME)
@dataclass(frozen=True, slots=True, kw_only=True)
class Stacked(TableFit):
    """Boosted trees of four kinds and a linear model, weighed on rows that they did not see: the most accurate."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    rounds: Annotated[int, Field(ge=1, le=20000)] = 2000
    """Most rounds of boosting of each member; of large tables (200,000 rows or more) at most 400."""
    patience: Annotated[int, Field(ge=1, le=10000)] = 60
    """Rounds without a gain on held-out rows after which a member's boosting ends."""
    members: Annotated[int, Field(ge=1, le=len(KINDS))] = len(KINDS)
    """Kinds of members to try, at most."""

    @classmethod
    def fitness(cls, source: Source, budget_s: float | None) -> tuple[float, str]:
        """The most accurate where a budget gives it the time."""
        has_time = budget_s is not None and budget_s >= ENOUGH_S
        return (0.9, f"a budget of {ENOUGH_S:.0f} s or more: time for several models") if has_time else (0.6, "slower")

    def run(self, source: Lesson, ctx: Context) -> Made:
        """Train on the lesson; the files lie in its folder."""
        budget = Clock(source)
        sheet = self.read(source, ctx)
        budget.look()
        if not len(sheet.folds):
            plain = LightGbm(**{name: getattr(self, name) for name in (field.name for field in fields(TableFit))})
            made = plain.run(source, ctx)
            return Made(
                variant=made.variant, rule=made.rule, params=made.params, costs=made.costs,
                notes=("too few rows to weigh several models: boosted trees alone", *made.notes),
            )  # fmt: skip
        kept = _Kept(ctx.scratch / "members", self._fingerprint(source, ctx))
        tried: list[_Tried] = []
        names = list(KINDS)[: self.members]
        slowest, before, is_cut = 0.0, budget.share(), False
        for place, name in enumerate(names):
            if tried and budget.share() + slowest > 1:
                is_cut = True
                break
            part = ctx.part(0.05 + 0.9 * place / len(names), 0.05 + 0.9 * (place + 1) / len(names))
            found = kept.load(name)
            if found is None:
                most = min(1.0, before + (1.0 - before) * (0.45 if place == 0 else 1.0))
                try:
                    found = self._try(name, sheet, part, budget, most, threads(source))
                except _Late:
                    is_cut = True
                    break
                kept.save(found)
            tried.append(found)
            slowest, before = budget.share() - before, budget.share()
        weights = weigh([one.raw for one in tried], sheet)
        used = [(one, weight) for one, weight in zip(tried, weights, strict=True) if weight]
        raw = np.sum([weight * one.raw for one, weight in used], axis=0)
        notes = ["made of " + ", ".join(f"{one.name} {weight:.2f}" for one, weight in used)]
        if is_cut:
            notes.append(f"the time budget left no room for {', '.join(names[len(tried) :])}")
        if ended := [one.name for one, _ in used if one.is_cut]:
            notes.append(
                f"the time budget ended the boosting of {', '.join(ended)}: a faster machine gives another model"
            )
        facts = {"members_used": {one.name: weight for one, weight in used}}
        known = ~np.isnan(raw).any(axis=1)  # rows that nobody could be judged on say nothing of the calibration either
        held = (raw[known], sheet.train.target[known])
        members_, shares = [one.member for one, _ in used], [weight for _, weight in used]
        return self.made(source, ctx, sheet, members_, shares, held, facts, notes)

    def _try(self, name: str, sheet: Sheet, ctx: Context, budget: Budget, most: float, threads: int) -> _Tried:
        """Learn a member fold by fold, then on all rows; it may use the budget up to the share ``most``."""
        start = budget.share()
        if name == "linear":

            def tick(share: float, text: str) -> None:
                ctx.tick(share, text)
                if budget.share() > 1:
                    raise _Late

            weigher = Weigher(sheet, ctx.seed)
            penalties = (3.0,) if budget.limit_s is not None and budget.limit_s < 10 else (0.3, 30.0)
            found = {p: weigher.out_of_fold(p, tick) for p in penalties}
            tick(0.95, "linear")
            target = weigher.held.target
            best = min(found, key=lambda p: _loss(found[p], target, bool(sheet.classes)))
            model = weigher.fit(best)
            raw = model.raw(sheet.train.features)  # rows that were not picked were not learnt from either
            raw[weigher.picks] = found[best]
            return _Tried(name=name, member=model, raw=raw)
        kind = dict(KINDS[name])
        rounds = self.rounds
        if len(sheet.train) >= LARGE_ROWS:
            kind["rate"], rounds = 2 * kind["rate"], min(rounds, 400)
        settings = Settings(rounds=rounds, patience=self.patience, threads=threads, **kind)
        forest = Forest(sheet, settings, ctx.seed)
        folds = grow_folds(forest, sheet, ctx.part(0, 0.8), budget, rounds, start + (most - start) * 0.8, name)
        best = max(1, round(float(np.mean([one.rounds for one in folds.values()]))))
        whole = forest.grow(watched(ctx.part(0.8, 1.0), budget, best, most, name), rounds=best)
        raw = out_of_fold(sheet, folds)
        lost = ~np.isin(sheet.folds, list(folds))
        if lost.any():  # no time for all folds: the first fold's trees saw the others, so nobody is judged on these
            raw[lost] = np.nan
        ended = bool(whole.is_cut or lost.any() or any(one.is_cut for one in folds.values()))
        return _Tried(name=name, member=whole.trees, raw=raw, is_cut=ended)

    def _fingerprint(self, lesson: Lesson, ctx: Context) -> str:
        told = [repr(self), lesson.source.id, ctx.seed, lesson.threads, lesson.budget_s]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def weigh(raws: Sequence[NDArray[np.float64]], sheet: Sheet) -> list[float]:
    """Weights that sum to 1: members are added one at a time, each time the one that helps unseen rows most.

    Source: Caruana et al. 2004, "Ensemble selection from libraries of models".
    """
    known = ~np.any([np.isnan(raw).any(axis=1) for raw in raws], axis=0)
    known = known if known.any() else np.ones(len(known), bool)
    target = sheet.train.target[known]
    told = [np.nan_to_num(raw[known]) for raw in raws]
    counts = np.zeros(len(told))
    total = np.zeros_like(told[0])
    best_counts, best = counts, np.inf
    for step in range(1, STEPS + 1):
        losses = [_loss((total + raw) / step, target, bool(sheet.classes)) for raw in told]
        pick = int(np.argmin(losses))
        counts = counts.copy()
        counts[pick] += 1
        total = total + told[pick]
        if losses[pick] < best:
            best, best_counts = losses[pick], counts
    return [float(count) for count in best_counts / best_counts.sum()]


def _loss(raw: NDArray[np.float64], target: NDArray[Any], has_classes: bool) -> float:
    if has_classes:
        return calibrate.loss(Calibration().chances(raw), target)
    return float(((raw[:, 0] - target) ** 2).mean())


class _Late(Exception):
    """The time is over before a member is whole; those before it make the model."""


class _Kept:
    """Members that an earlier, killed run had finished: the same run goes on from them."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint

    def load(self, name: str) -> _Tried | None:
        """The member, where it is there and was made from the same."""
        facts = self._folder / f"{name}.json"
        if not facts.is_file():
            return None
        told = json.loads(facts.read_text(encoding="utf-8"))
        if told["fingerprint"] != self._fingerprint:
            return None
        raw = np.load(self._folder / f"{name}.npy", allow_pickle=False)
        member = members.load(told["member"], self._folder / name)
        return _Tried(name=name, member=member, raw=raw, is_cut=told["is_cut"])

    def save(self, one: _Tried) -> None:
        """Write a member; what says that it is whole comes last."""
        (self._folder / one.name).mkdir(parents=True, exist_ok=True)
        np.save(self._folder / f"{one.name}.npy", one.raw)
        member = one.member.save(self._folder / one.name, 0)
        told = {"fingerprint": self._fingerprint, "member": member, "is_cut": one.is_cut}
        partial = self._folder / f"{one.name}.partial"
        partial.write_text(json.dumps(told), encoding="utf-8")
        partial.replace(self._folder / f"{one.name}.json")
