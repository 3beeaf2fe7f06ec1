"""A linear model: the recipe where every weight must be explainable, or where rows are few."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import ConfigDict, Field

from loopworks.core.contracts import Context
from loopworks.core.registry import plugins
from loopworks.data.source import Source
from loopworks.train.contracts import Lesson, Made
from loopworks.train.tables.fit import TableFit
from loopworks.train.tables.weighing import MOST_ROWS, PENALTIES, Weigher

NAME = "train.linear"
FEW_ROWS = 200
"""Training rows below which a linear model is the safer choice."""


@plugins.add(NAME)
@dataclass(frozen=True, slots=True, kw_only=True)
class LinearFit(TableFit):
    """Logistic or ridge regression: one weight per number and category, microseconds per answer."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    penalty: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """Strength of the penalty on the weights; 0 finds the best of a few on held-out rows."""

    @classmethod
    def fitness(cls, source: Source, budget_s: float | None) -> tuple[float, str]:
        """For tables of few rows."""
        few = source.counts.get("train", 0) < FEW_ROWS
        return (0.85, f"fewer than {FEW_ROWS} rows") if few else (0.4, "a baseline for tables")

    def run(self, source: Lesson, ctx: Context) -> Made:
        """Train on the lesson; the files lie in its folder."""
        sheet = self.read(source, ctx)
        weigher = Weigher(sheet, ctx.seed)
        penalties = (self.penalty,) if self.penalty > 0 else PENALTIES
        found = weigher.best(ctx.part(0.05, 0.95).tick, penalties)
        notes = []
        if len(weigher.picks) < len(sheet.train):
            notes.append(f"learnt from a sample of {MOST_ROWS:,} of {len(sheet.train):,} rows")
        if sheet.val is None:
            notes.append("no validation rows to speak of: the penalty was found on folds of the training rows")
        part = sheet.val if sheet.val is not None else weigher.held
        held = None if found.held is None else (found.held, part.target)
        return self.made(source, ctx, sheet, [found.model], [1.0], held, {"penalty_used": found.penalty}, notes)
