"""Descriptor by a model of the workspace: what it answers."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Predictor
from loopworks.core.values import ImageRule
from loopworks.data.features.contract import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """All outputs of a model, side by side: items that it answers alike are near."""

    key: str
    title: str
    rule: ImageRule | None
    width: int
    answer: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    """Takes images ``(n, height, width, 3)``, gives ``(n, width)``."""
    dtype: str = "float32"
    lock: threading.Lock = field(default_factory=threading.Lock)

    def describe(self, batch: Batch) -> NDArray[np.float32]:
        """The answers; a predictor is asked from one thread at a time."""
        with self.lock:
            return self.answer(np.asarray(batch, np.uint8))


def of_model(ref: str, key: str, bundle: Bundle, predictor: Predictor) -> Answers:
    """What a model of the workspace answers, as a descriptor of images.

    Args:
        ref: its name for people, NAME:NUMBER.
        key: key of its bundle: another bundle, other descriptions.
        bundle: says how images go in.
        predictor: gives the answers.
    """

    def answer(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        outputs = predictor.predict({bundle.inputs[0].name: pixels})
        return np.concatenate([x.reshape(len(pixels), -1) for x in outputs.values()], axis=1).astype(np.float32)

    blank = np.zeros((1, bundle.rule.height, bundle.rule.width, 3), np.uint8)
    width = answer(blank).shape[1]
    return Answers(key=f"model-{key[:32]}", title=f"model {ref}", rule=bundle.rule, width=width, answer=answer)
