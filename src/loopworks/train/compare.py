"""Two models on the same items: better, worse, or not to be told apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, Learnable, Metric, Translated, learnable
from loopworks.core.errors import Conflict, Invalid
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema, Score
from loopworks.tasks.scores import LOWER

Verdict = Literal["better", "worse", "not separable"]
LEAST = 5
"""Items without which nothing is compared."""
ROUNDS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """One metric of two models on the same items."""

    left: Score
    right: Score
    difference: Score
    """Left minus right; its interval is that of the same resampled items for both."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"left": self.left.to_json(), "right": self.right.to_json(), "difference": self.difference.to_json()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is known of two models from the same test items."""

    left: str
    right: str
    headline: str
    verdict: Verdict
    """Of the left model against the right one, by the headline."""
    metrics: Mapping[str, Paired]
    version: str
    """Whose test items both were asked about."""
    items: int
    left_out: int = 0
    """Test items of that version that one of the models learnt from or was chosen by."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "left": self.left,
            "right": self.right,
            "headline": self.headline,
            "verdict": self.verdict,
            "metrics": {name: paired.to_json() for name, paired in self.metrics.items()},
            "version": self.version,
            "items": self.items,
            "left_out": self.left_out,
            "notes": list(self.notes),
        }

    def sentence(self) -> str:
        """The verdict with its figures, in one line."""
        paired = self.metrics[self.headline]
        apart = paired.difference
        verdict = "not separable from" if self.verdict == "not separable" else f"{self.verdict} than"
        return (
            f"{self.left} is {verdict} {self.right}: {self.headline} {paired.left.value:.4f} against "
            f"{paired.right.value:.4f}, difference {apart.value:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}] on "
            f"{self.items} test items"
        )


def compare(
    task: Learnable,
    schemas: tuple[LabelSchema, LabelSchema],
    targets: NDArray[Any],
    left: Arrays,
    right: Arrays,
    *,
    seed: int = 0,
    rounds: int = ROUNDS,
) -> tuple[Verdict, dict[str, Paired]]:
    """Compare two models' answers for the same items, in the same order.

    ``schemas`` are of the same classes; each model's own costs say how its answer is chosen.

    Source: Efron and Tibshirani 1993, "An introduction to the bootstrap", ch. 8 (paired resampling).
    """
    count = len(targets)
    if count < LEAST:
        raise Invalid("items to compare by", f"at least {LEAST}", count, "a version with a larger test split")
    ours, theirs = task.metrics(targets, left, schemas[0]), task.metrics(targets, right, schemas[1])
    found = {name: _paired(ours[name], theirs[name], count, seed, rounds) for name in ours if name in theirs}
    apart = found[task.headline].difference
    low, high = (-apart.high, -apart.low) if task.headline in LOWER else (apart.low, apart.high)
    verdict: Verdict = "better" if low > 0 else "worse" if high < 0 else "not separable"
    return verdict, found


def _paired(left: Metric, right: Metric, count: int, seed: int, rounds: int) -> Paired:
    rng = np.random.default_rng(seed)
    draws = np.empty((rounds, 2))
    for row in draws:
        at = rng.integers(0, count, count)
        row[:] = left(at), right(at)
    everything = np.arange(count)
    values = left(everything), right(everything)
    return Paired(
        left=_score(values[0], draws[:, 0], count),
        right=_score(values[1], draws[:, 1], count),
        difference=_score(values[0] - values[1], draws[:, 0] - draws[:, 1], count),
    )


def _score(value: float, draws: NDArray[np.float64], count: int) -> Score:
    low, high = (float(one) for one in np.quantile(draws, (0.025, 0.975)))
    return Score(value=value, low=min(low, value), high=max(high, value), count=count)


def same_task(left: Bundle, right: Bundle) -> Learnable:
    """The task kind of both; ``Conflict`` where they answer different questions."""
    if left.task != right.task or left.schema.is_multi != right.schema.is_multi:
        raise Conflict(
            f"models to compare must answer the same question; got {_question(left)} and {_question(right)}",
            "compare models of one task",
        )
    return learnable(plugins.get(f"task.{left.task}"))


def translated(task: Learnable, outputs: Arrays, before: LabelSchema, now: LabelSchema, ref: str) -> Arrays:
    """Answers of a model that knew the classes ``before``, by those of the test items.

    Raises: Conflict: the classes differ, and the task kind cannot read one list by another.
    """
    if before.classes == now.classes:
        return outputs
    if not isinstance(task, Translated):
        differing = sorted(set(before.classes) ^ set(now.classes)) or "their order"
        raise Conflict(f"model {ref} must know the classes of the test items; they differ in {differing}")
    return task.translate(outputs, before, now)


def with_costs(now: LabelSchema, before: LabelSchema) -> LabelSchema:
    """The classes of ``now`` with the costs that a model of ``before`` chooses by; a class that it does not know: 1."""
    if not before.costs:
        return replace(now, costs=())
    known = dict(zip(before.classes, before.costs, strict=True))
    return replace(now, costs=tuple(known.get(name, 1.0) for name in now.classes))


def class_notes(schema: LabelSchema, models: Sequence[tuple[str, LabelSchema]]) -> tuple[str, ...]:
    """What must be said where a model does not know all classes of the test items."""
    return tuple(
        f"{ref} does not know {', '.join(missing)}: it is wrong on each of their items"
        for ref, known in models
        if (missing := [name for name in schema.classes if name not in known.classes])
    )


def _question(bundle: Bundle) -> str:
    return f"{bundle.task}{' (multi-label)' if bundle.schema.is_multi else ''}"
