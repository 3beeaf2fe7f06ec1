"""How many requests a run should join: measured while a model serves, as it differs by model, runtime and machine.

Joining costs waiting for each other and larger tensors; it pays where a run has fixed costs or large batches are
computed better. Convolutions on ONNX Runtime lose a tenth by it, on OpenVINO they win a third, and trees win much.
"""

import time

TRIED = 6
"""Runs of each way in a trial; the quickest of them counts, as whatever else the machine does only ever adds."""
AGAIN_S = 60.0
"""How long the result of a trial holds."""
GAIN = 1.03
"""How many times as quick per row joined runs must be: below that, waiting for each other is not worth it."""


class Joining:
    """Decides for one model whether waiting requests share a run; used by its workers, under their lock."""

    def __init__(self) -> None:
        """Join, until the first trial under load."""
        self.is_on = True
        """Whether to join what waits now."""
        self._until = 0.0
        self._alone: list[float] = []
        self._joined: list[float] = []

    def saw(self, requests: int, rows: int, seconds: float, waiting: int) -> bool:
        """A run of so many requests has ended; ``waiting`` are left in the queue.

        A trial needs load: where nothing waits, there is nothing to choose. Requests of many rows are batches
        themselves and tell nothing.

        Returns: whether a trial has ended against joining, so that nobody needs the memory of large runs.
        """
        now = time.monotonic()
        if now < self._until or rows > requests or (requests == 1 and not waiting):
            return False
        (self._joined if requests > 1 else self._alone).append(seconds / rows)
        if len(self._alone) >= TRIED and len(self._joined) >= TRIED:
            self.is_on = min(self._alone) > GAIN * min(self._joined)
            self._until = now + AGAIN_S
            self._alone, self._joined = [], []
            return not self.is_on
        self.is_on = len(self._joined) <= len(self._alone)
        return False
