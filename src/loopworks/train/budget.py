"""The clock of one training: how much of its time is spent, over all the runs that it took."""

import time


class Budget:
    """Seconds spent and left. A resumed training goes on counting where the killed one stopped."""

    def __init__(self, limit_s: float | None, reserve_s: float = 0.0) -> None:
        """Start the clock.

        Args:
            limit_s: seconds for the whole training; ``None`` is no limit.
            reserve_s: seconds of these that what follows the loop (export, scoring) needs; at most half is kept.
        """
        self.limit_s = limit_s
        self._reserve_s = reserve_s
        self._before_s = 0.0
        self._began = time.monotonic()

    def resume(self, spent_s: float) -> None:
        """Count what an earlier, killed run had spent."""
        self._before_s = spent_s

    def reserve(self, seconds: float) -> None:
        """Keep at least so much for what follows the loop, once it is known better."""
        self._reserve_s = max(self._reserve_s, seconds)

    def spent_s(self) -> float:
        """Seconds used so far."""
        return self._before_s + time.monotonic() - self._began

    def share(self) -> float:
        """Share of the loop's time that is used, in 0..1 (above 1: over); 0 where there is no limit."""
        if self.limit_s is None:
            return 0.0
        return self.spent_s() / (self.limit_s - min(self._reserve_s, self.limit_s / 2))
