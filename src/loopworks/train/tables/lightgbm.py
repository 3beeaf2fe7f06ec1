"""Boosted trees: the recipe for tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field

from loopworks.core.contracts import Context
from loopworks.core.errors import Invalid
from loopworks.core.registry import plugins
from loopworks.data.source import Source
from loopworks.train.budget import Budget
from loopworks.train.contracts import Lesson, Made
from loopworks.train.tables.boost import Forest, Grown, Settings, Watch, out_of_fold
from loopworks.train.tables.fit import TableFit, clock, threads
from loopworks.train.tables.sheet import Sheet

NAME = "train.lightgbm"
LARGE_ROWS = 200_000
FEW_ROUNDS = 50
"""Rounds where there are too few rows to find out how many are best."""


@plugins.add(NAME)
@dataclass(frozen=True, slots=True, kw_only=True)
class LightGbm(TableFit):
    """Boosted trees by LightGBM: seconds on two cores, strong on nearly every table, no care needed."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    rounds: Annotated[int, Field(ge=0, le=20000)] = 0
    """Most rounds of boosting, which ends sooner once held-out rows gain no more; 0: 3000, of large tables 600."""
    rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of each tree that is added, no unit; 0: 0.05, of large tables (200,000 rows or more) 0.1."""
    leaves: Annotated[int, Field(ge=2, le=4096)] = 31
    """Leaves of a tree, at most."""
    min_rows: Annotated[int, Field(ge=1, le=100000)] = 20
    """Rows in a leaf, at least; fewer where the table has fewer than 400 rows."""
    feature_share: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of the features that each tree looks at."""
    row_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the rows that each tree learns from."""
    l2: Annotated[float, Field(ge=0, le=1e6)] = 1.0
    """Penalty on the leaves' values."""
    patience: Annotated[int, Field(ge=1, le=10000)] = 100
    """Rounds without a gain on held-out rows after which to end."""
    monotone: Mapping[str, Literal[-1, 0, 1]] = field(default_factory=dict)
    """Column -> 1 where the answer may only rise with it, -1 where it may only fall."""

    @classmethod
    def fitness(cls, source: Source, budget_s: float | None) -> tuple[float, str]:
        """The best for a table but for the slower stack of several models."""
        return 0.8, "boosted trees suit nearly every table"

    @classmethod
    def space(cls, draw: Any, source: Source) -> dict[str, Any]:
        """What a search may change."""
        return {
            "rate": draw.number("rate", 0.01, 0.2, log=True),
            "leaves": draw.whole("leaves", 4, 255, log=True),
            "min_rows": draw.whole("min_rows", 2, 200, log=True),
            "feature_share": draw.number("feature_share", 0.3, 1.0),
            "row_share": draw.number("row_share", 0.5, 1.0),
            "l2": draw.number("l2", 0.01, 100.0, log=True),
        }

    def run(self, source: Lesson, ctx: Context) -> Made:
        """Train on the lesson; the files lie in its folder."""
        budget = clock(source)
        sheet = self.read(source, ctx)
        check_monotone(self.monotone, sheet)
        rounds = self.rounds or (3000 if len(sheet.train) < LARGE_ROWS else 600)
        settings = Settings(
            rounds=rounds,
            rate=self.rate or (0.05 if len(sheet.train) < LARGE_ROWS else 0.1),
            leaves=self.leaves,
            min_rows=self.min_rows,
            feature_share=self.feature_share,
            row_share=self.row_share,
            l2=self.l2,
            patience=self.patience,
            monotone=self.monotone,
            threads=threads(source),
        )
        ctx.tick(0.02, "binning")
        forest = Forest(sheet, settings, ctx.seed)
        notes: list[str] = []
        if sheet.val is not None:
            grown = forest.grow(watched(ctx.part(0.05, 0.95), budget, rounds))
            held = (grown.trees.raw(sheet.val.features), sheet.val.target)
        elif len(sheet.folds):
            notes.append(f"no validation rows to speak of: rounds were found on {int(sheet.folds.max()) + 1} folds")
            found = grow_folds(forest, sheet, ctx.part(0.05, 0.75), budget, rounds, 0.75)
            best = max(1, round(float(np.mean([one.rounds for one in found.values()]))))
            raw = out_of_fold(sheet, found)
            grown = forest.grow(watched(ctx.part(0.75, 0.95), budget, best), rounds=best)
            whole = np.isin(sheet.folds, list(found))
            held = (raw[whole], sheet.train.target[whole])
        else:
            few = min(FEW_ROUNDS, rounds)
            notes.append(f"too few rows to hold some back: {few} rounds, not calibrated")
            grown = forest.grow(watched(ctx.part(0.05, 0.95), budget, few), rounds=few)
            held = None
        if grown.is_cut:
            notes.append(f"ended by the time budget after {grown.rounds} rounds: a faster machine gives another model")
        facts = {"rounds_used": grown.rounds, "rate_used": settings.rate}
        return self.made(source, ctx, sheet, [grown.trees], [1.0], held, facts, notes)


def watched(ctx: Context, budget: Budget, rounds: int, share: float = 1.0, name: str = "") -> Watch:
    """Report and look at the clock: ``share`` of the budget may be used when it is called for the last time."""

    def watch(done: int, loss: float | None) -> bool:
        ctx.tick(min(1.0, max(done / rounds, min(1.0, budget.share() / share))), f"{name or 'boosting'}, round {done}")
        if loss is not None and (done % 10 == 0 or done == 1) and not name:
            ctx.metric("val_loss", done, loss)
        return budget.share() < share

    return watch


def grow_folds(
    forest: Forest, sheet: Sheet, ctx: Context, budget: Budget, rounds: int, share: float, name: str = "fold"
) -> dict[int, Grown]:
    """Trees by fold; folds for which there is no time left are left out, but for the first."""
    count = int(sheet.folds.max()) + 1
    found: dict[int, Grown] = {}
    start = budget.share()
    for fold in range(count):
        end = start + (share - start) * (fold + 1) / count
        if fold and budget.share() >= share:
            break
        part = ctx.part(fold / count, (fold + 1) / count)
        found[fold] = forest.grow_fold(fold, watched(part, budget, rounds, end, f"{name} {fold + 1} of {count}"))
    return found


def check_monotone(monotone: Mapping[str, int], sheet: Sheet) -> None:
    """Constraints are for columns of numbers that are learnt from."""
    numbers = [column.name for column in sheet.rule.columns if column.kind in ("number", "bool", "time")]
    if unknown := sorted(set(monotone) - set(numbers)):
        raise Invalid("monotone", f"of columns of numbers ({', '.join(numbers[:12])})", unknown[0])
    if monotone and sheet.columns > 1:
        raise Invalid("monotone", "empty where there are more than two classes", dict(monotone))
