"""A model's answers on many items: what train and optimize score."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Predictor

BATCH = 64


def answers(
    predictor: Predictor,
    inputs: NDArray[np.uint8],
    name: str = "image",
    *,
    batch: int = BATCH,
    tick: Callable[[float], None] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Ask for every item, batch by batch.

    Args:
        predictor: a loaded model.
        inputs: all items, shape ``(items, ...)``; at least one.
        name: of the model's input tensor.
        batch: items per call.
        tick: called after each batch with the share done in 0..1; may raise ``Cancelled``.
    Returns: output name -> array whose first axis is ``items``.
    """
    parts: list[dict[str, NDArray[np.float32]]] = []
    for start in range(0, len(inputs), batch):
        parts.append(dict(predictor.predict({name: inputs[start : start + batch]})))
        if tick is not None:
            tick(min(1.0, (start + batch) / len(inputs)))
    return {output: np.concatenate([part[output] for part in parts]) for output in parts[0]}
