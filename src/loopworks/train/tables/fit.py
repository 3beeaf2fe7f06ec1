"""What all tabular recipes share: their parameters, the clock, and the way from members to a finished model."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from loopworks.core.contracts import Context
from loopworks.train.budget import Budget
from loopworks.train.contracts import Lesson, Made
from loopworks.train.tables import calibrate, sheet
from loopworks.train.tables.blend import Blend
from loopworks.train.tables.calibrate import Calibration
from loopworks.train.tables.members import Member
from loopworks.train.tables.sheet import Sheet, Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFit:
    """Parameters of every tabular recipe."""

    tasks: ClassVar[frozenset[str]] = frozenset({"tabular-classification", "tabular-regression"})
    """Task kinds that it learns."""

    class_weights: Weights = "none"
    """balanced: rare classes count as much as common ones while learning."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """Class -> what it costs to miss a row of it (1 where not said): the answer is the class with the most to lose."""
    calibrate: bool = True
    """Whether chances are calibrated where rows that were not learnt from gain by it."""
    terms: Annotated[int, Field(ge=1, le=2000)] = 100
    """Words and pairs of words that are looked for in each column of sentences."""
    leave_out: tuple[str, ...] = ()
    """Columns that are not learnt from, e.g. those that leak the target."""

    def read(self, lesson: Lesson, ctx: Context) -> Sheet:
        """The lesson's rows."""
        return sheet.read(
            lesson,
            ctx,
            class_weights=self.class_weights,
            terms=self.terms,
            left_out=self.leave_out,
            costs=self.costs,
        )

    def made(
        self,
        lesson: Lesson,
        ctx: Context,
        told: Sheet,
        members: Sequence[Member],
        weights: Sequence[float],
        held: tuple[NDArray[np.float64], NDArray[Any]] | None,
        facts: Mapping[str, Any],
        notes: Sequence[str],
    ) -> Made:
        """Calibrate and write the model.

        Args:
            lesson, ctx, told: what was learnt from.
            members, weights: what was learnt.
            held: raw scores of rows that were not learnt from, and their targets.
            facts: parameters as they were used.
            notes: what a user must know.
        """
        ctx.tick(0.95, "writing the model")
        calibration, why = Calibration(), ""
        if self.calibrate and told.classes and held is not None:
            calibration, why = calibrate.choose(held[0], held[1], ctx.seed)
        blend = Blend(
            members=members,
            weights=weights,
            calibration=calibration,
            is_number=not told.classes,
            middle=told.middle,
            spread=told.spread,
        )
        costs = tuple(float(self.costs.get(name, 1.0)) for name in told.classes) if self.costs else ()
        if costs and held is not None:
            why = "; ".join(filter(None, (why, _saving(calibration.chances(held[0]), held[1], np.asarray(costs)))))
        (output,) = lesson.source.task.outputs(lesson.source.schema)
        return Made(
            variant=blend.save(lesson.folder, told.rule.width, output),
            rule=told.rule,
            params={**_plain(asdict(self)), **facts},
            costs=costs,
            notes=(*notes, *told.notes, *([why] if why else [])),
        )


def clock(lesson: Lesson) -> Budget:
    """The time of a training; scoring takes some of it, by the number of rows (most of it resampling)."""
    counts = lesson.source.counts
    return Budget(lesson.budget_s, 0.3 + 2e-4 * (counts.get("val", 0) + counts.get("test", 0)))


def threads(lesson: Lesson) -> int:
    """Threads to use."""
    return lesson.threads or len(os.sched_getaffinity(0))


def _saving(chances: NDArray[np.float64], truth: NDArray[np.int64], costs: NDArray[np.float64]) -> str:
    """What the costs change, on rows that were not learnt from."""
    each = costs[truth]
    before, after = (float((each * (answer.argmax(axis=1) != truth)).mean()) for answer in (chances, chances * costs))
    return f"classes are chosen by costs: {after:.4f} per row instead of {before:.4f} on rows not learnt from"


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
        for name, value in params.items()
    }
