"""Predictors under the test's control, and how the tests of the engine ask."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.contracts import Arrays
from loopworks.infer.engine import Answer, Engine

POISON = 255
PATIENCE_S = 20.0


class Double:
    """A predictor under the test's control: gives each row's mean back, waits at a gate, fails on poison."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.sizes: list[int] = []
        self.closed = 0
        self.busy = threading.Lock()
        self.answer: Callable[[NDArray[Any]], NDArray[Any]] = lambda x: x.astype(np.float32).mean(axis=(1, 2))

    def predict(self, batch: Arrays) -> Arrays:
        assert self.busy.acquire(blocking=False), "two threads in one predictor"
        try:
            x = batch["image"]
            self.entered.release()
            assert self.gate.wait(PATIENCE_S)
            self.sizes.append(len(x))
            if (x == POISON).any():
                raise RuntimeError("poisoned")
            return {"scores": self.answer(x), "more": x}
        finally:
            self.busy.release()

    def close(self) -> None:
        self.closed += 1


class Doubles:
    """The runtime that hands out doubles, and remembers them."""

    made: list[Double]

    def load(self, path: Path, *, threads: int, precision: str) -> Double:
        assert threads == 1
        self.made.append(Double())
        return self.made[-1]


def image(value: int = 0, rows: int = 1, size: int = 8) -> dict[str, NDArray[np.uint8]]:
    return {"image": np.full((rows, size, size, 3), value, np.uint8)}


def value_of(future: "Future[Answer]") -> float:
    return float(future.result(PATIENCE_S).outputs["scores"][0, 0])


def hold(engine: Engine, predictor: Double) -> "Future[Answer]":
    """Keep the only worker busy until the gate opens."""
    while predictor.entered.acquire(blocking=False):
        pass
    predictor.gate.clear()
    future = engine.submit("m", image(1))
    assert predictor.entered.acquire(timeout=PATIENCE_S)
    predictor.sizes.clear()
    return future
