"""A linear model: the recipe where every weight must be explainable, or where rows are few."""

from dataclasses import dataclass

from pydantic import ConfigDict

from loopworks.core.contracts import Context
from loopworks.core.registry import plugins
from loopworks.train.contracts import Lesson, Made
from loopworks.train.tables.fit import TableFit
from loopworks.train.tables.weighing import MOST_ROWS, PENALTIES, Weigher

NAME = "train.linear"


@plugins.add(NAME)
@dataclass(frozen=True, slots=True, kw_only=True)
class LinearFit(TableFit):
    """Logistic or ridge regression: one weight per number and category, microseconds per answer."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    penalty: float = 0.0
    """Strength of the penalty on the weights, 0 or more; 0 finds the best of a few on held-out rows."""

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
