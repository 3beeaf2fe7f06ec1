"""Descriptor by a model of the workspace: what it answers."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

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
