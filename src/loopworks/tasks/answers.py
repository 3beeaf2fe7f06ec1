"""A model's answers on many items: what train and optimize score."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Arrays, Predictor

BATCH = 64


def answers(
    predictor: Predictor, inputs: Arrays, *, batch: int = BATCH, tick: Callable[[float], None] | None = None
) -> dict[str, NDArray[Any]]:
    """Ask for every item, batch by batch.

    Args:
        predictor: a loaded model.
        inputs: all items, packed by the model's rule: each tensor's first axis is the items; at least one.
        batch: items per call.
        tick: called after each batch with the share done in 0..1; may raise ``Cancelled``.
    Returns: output name -> array whose first axis is the items.
    """
    count = size(inputs)
    parts: list[Arrays] = []
    for start in range(0, count, batch):
        parts.append(predictor.predict(rows(inputs, slice(start, start + batch))))
        if tick is not None:
            tick(min(1.0, (start + batch) / count))
    return {output: np.concatenate([part[output] for part in parts]) for output in parts[0]}


def size(inputs: Arrays) -> int:
    """How many items there are."""
    return len(next(iter(inputs.values())))


def rows(inputs: Arrays, at: slice | NDArray[np.intp]) -> dict[str, NDArray[Any]]:
    """The same tensors for some of the items."""
    return {name: values[at] for name, values in inputs.items()}
