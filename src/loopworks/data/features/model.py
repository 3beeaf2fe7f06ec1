"""Descriptor by a model of the workspace: what it answers."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Predictor, learnable
from loopworks.core.registry import plugins
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


def of_model(ref: str, key: str, bundle: Bundle, predictor: Predictor) -> Answers | None:
    """What a model of the workspace answers, as a descriptor of images; ``None`` for models of other media.

    Args:
        ref: its name for people, NAME:NUMBER.
        key: key of its bundle: another bundle, other descriptions.
        bundle: says how images go in.
        predictor: gives the answers.
    """
    rule = bundle.rule
    if not isinstance(rule, ImageRule):
        return None
    task = learnable(plugins.get(f"task.{bundle.task}"))

    def answer(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return task.features(predictor.predict({bundle.inputs[0].name: pixels}), bundle.schema)

    width = answer(np.zeros((1, rule.height, rule.width, 3), np.uint8)).shape[1]
    return Answers(key=f"model-{key[:32]}", title=f"model {ref}", rule=rule, width=width, answer=answer)
