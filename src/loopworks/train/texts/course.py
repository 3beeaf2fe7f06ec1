"""The way of a text network through the training loop that images go through too: clock, epochs, best weights."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from loopworks.core.contracts import Context
from loopworks.train.contracts import Lesson
from loopworks.train.lesson import ending, fingerprint, judge_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from loopworks.train.batches import Inputs, Split
    from loopworks.train.budget import Budget

TASKS = frozenset({"text-classification"})
COLDEST, WARMEST = 0.05, 20.0
"""Limits of the temperature that chances are corrected by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFit:
    """Parameters of every training of a network on texts."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    most_chars: Annotated[int, Field(ge=1, le=1 << 20)] = 2000
    """Characters that are read of a text; the rest is left out."""
    epochs: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Times that the training goes over all texts; 0 chooses by the number of texts and the budget."""
    batch: Annotated[int, Field(ge=0, le=4096)] = 0
    """Texts per step; 0 chooses by the number of texts."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Pull of the weights towards zero (AdamW), no unit."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of each single label that is spread over the other classes while training."""
    patience: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Epochs without a better validation result after which training stops; 0 is half of all epochs."""

    @classmethod
    def shares(cls) -> str:
        """Workers split each batch."""
        return "batches"


F = TypeVar("F", bound=TextFit)


class Unchanged:
    """Texts go to the network as they are; see ``augment.Augment``."""

    def seed(self, seed: int) -> None:
        """Nothing is drawn."""

    def share(self, first: int, total: int) -> None:
        """Nothing is drawn."""

    def __call__(self, texts: "Tensor") -> "Tensor":
        """The batch."""
        return texts

    def normalize(self, texts: "Tensor") -> "Tensor":
        """The batch."""
        return texts


def planned(params: F, texts: int, budget_s: float | None, *, batch: int, steps: int, fewest: int) -> F:
    """Fill in batch, epochs and patience; with a budget, the clock decides earlier.

    Args:
        params: as given.
        texts: how many there are to learn from.
        budget_s: of the lesson.
        batch: texts per step where there are thousands.
        steps: optimizer steps to aim at.
        fewest: epochs, at least.
    """
    few = 2 ** max(3, math.ceil(math.log2(max(texts, 1) / 40)))  # some forty steps per epoch, however few texts
    params = replace(params, batch=params.batch or min(batch, few))
    epochs = params.epochs or min(100, max(fewest, round(steps / math.ceil(texts / params.batch))))
    if budget_s is not None and not params.epochs:
        epochs *= 2
    return replace(params, epochs=epochs, patience=params.patience or max(5, epochs // 2))


def take(
    lesson: Lesson,
    ctx: Context,
    params: TextFit,
    recipe: str,
    network: "nn.Module",
    inputs: "dict[str, Inputs]",
    *,
    budget: "Budget",
    rate: float,
    threads: int,
) -> tuple[list[str], float]:
    """Train ``network`` in place on ``inputs`` (split -> texts as the network takes them).

    Args:
        lesson: what to learn from.
        ctx: progress 0..1 of the whole.
        params: filled in; see ``planned``.
        recipe: the plug-in's name.
        network: gives logits.
        inputs: ``train``, and ``val`` where there is one.
        budget: the clock.
        rate: highest learning rate.
        threads: of torch; 0 is one per core.
    Returns: notes, and the temperature that the logits should be divided by (1 without validation texts).
    """
    import torch

    from loopworks.train.loop import Learner, Plan
    from loopworks.train.objectives import Classes
    from loopworks.train.together import fit

    source = lesson.source
    objective = Classes(Unchanged(), is_multi=source.schema.is_multi, smoothing=params.smoothing)
    plan = Plan(
        epochs=params.epochs,
        batch=params.batch,
        rate=rate,
        weight_decay=params.weight_decay,
        patience=params.patience,
        threads=threads,
    )
    splits = {name: _split(texts, source.targets(name)) for name, texts in inputs.items()}
    val = splits.get("val")
    progress = fit(
        Learner(network, objective, plan),
        splits["train"],
        val,
        judge_of(source),
        fingerprint=fingerprint(lesson, ctx.seed, recipe, params),
        budget=budget,
        ctx=ctx,
        workers=lesson.workers,
    )
    notes = ending(
        progress,
        epochs=params.epochs,
        batch=params.batch,
        has_val=val is not None,
        unchecked=", and the chances are not calibrated",
    )
    if val is None:
        return notes, 1.0
    network.cpu()
    with torch.inference_mode():
        at = [slice(start, start + params.batch) for start in range(0, len(val), params.batch)]
        logits = torch.cat([network(val.images[places]) for places in at])
    return notes, temperature(logits, torch.as_tensor(val.targets), is_multi=source.schema.is_multi)


def temperature(logits: "torch.Tensor", targets: "torch.Tensor", *, is_multi: bool) -> float:
    """What to divide logits by so that the chances fit the truth best (least log loss), in 0.05..20.

    A few texts that are all answered rightly would ask for boundless certainty, so that the logarithm of the
    temperature counts as one observation more: normal, around 0 with deviation 1.

    Source: Guo et al. 2017, "On calibration of modern neural networks".
    """
    import torch
    from torch.nn import functional

    lose = functional.binary_cross_entropy_with_logits if is_multi else functional.cross_entropy
    low, high = math.log(COLDEST), math.log(WARMEST)
    for _ in range(6):  # each pass looks at 17 places and goes on between the neighbours of the best
        grid = np.linspace(low, high, 17)
        losses = [
            float(lose(logits.double() / math.exp(at), targets.double())) + 0.5 * at * at / len(logits) for at in grid
        ]
        best = int(np.argmin(losses))
        low, high = float(grid[max(0, best - 1)]), float(grid[min(16, best + 1)])
    assert isinstance(logits, torch.Tensor)
    return math.exp((low + high) / 2)


def _split(texts: "Inputs", targets: NDArray[Any]) -> "Split":
    import torch

    from loopworks.train.batches import Split

    return Split(images=texts, targets=torch.from_numpy(np.array(targets, np.float32)))
