"""The clock of one training: how much of its time is spent, over all the runs that it took."""

import time

SLOWEST = 12.0
"""A thread that gets less than a twelfth of a core is not slow but waits for something."""
WINDOW_S = 2.0
"""Seconds over which it is measured how much of a core this thread gets."""


class Budget:
    """Seconds spent and left. A resumed training goes on counting where the killed one stopped.

    What follows the loop (export, scoring) takes as long again as it does on an idle machine as this machine is busy:
    the seconds that this thread spent against those that it computed say how busy that is.
    """

    def __init__(self, limit_s: float | None, reserve_s: float = 0.0, after_s: float = 0.0) -> None:
        """Start the clock.

        Args:
            limit_s: seconds for the whole training; ``None`` is no limit.
            reserve_s: seconds of these that what follows the loop needs however busy the machine is.
            after_s: seconds that it computes, on one core; more of the clock, where the machine is busy. At most half
                of the limit is kept for both.
        """
        self.limit_s = limit_s
        self.reserve_s = reserve_s
        self.after_s = after_s
        self.slow = 1.0
        """Seconds of the clock for one of computing, lately."""
        self._before_s = 0.0
        self._began = self._mark_s = time.monotonic()
        self._computed_s = time.thread_time()

    def resume(self, spent_s: float) -> None:
        """Count what an earlier, killed run had spent."""
        self._before_s = spent_s

    def reserve(self, seconds: float) -> None:
        """Keep so much for what follows the loop, measured on this machine as it is."""
        self.reserve_s = seconds

    def spent_s(self) -> float:
        """Seconds used so far."""
        return self._before_s + time.monotonic() - self._began

    def kept_s(self) -> float:
        """Seconds kept for what follows the loop."""
        return self.reserve_s + self.after_s * self.slow

    def share(self) -> float:
        """Share of the loop's time that is used, in 0..1 (above 1: over); 0 where there is no limit."""
        if self.limit_s is None:
            return 0.0
        self._look()
        return self.spent_s() / (self.limit_s - min(self.kept_s(), self.limit_s / 2))

    def _look(self) -> None:
        """See how busy the machine is; half of the last look counts, so that one stall says little."""
        now = time.monotonic()
        if now - self._mark_s < WINDOW_S:
            return
        computed = time.thread_time()
        found = (now - self._mark_s) / max(computed - self._computed_s, 1e-9)
        self.slow = 0.5 * self.slow + 0.5 * min(max(found, 1.0), SLOWEST)
        self._mark_s, self._computed_s = now, computed
