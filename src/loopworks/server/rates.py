"""How often somebody may ask: a token bucket for each."""

import threading
import time

from loopworks.core.errors import TooMany

MANY = 10_000
"""From here on those who have not asked lately are forgotten."""


class Rate:
    """At most so many requests a second on average, and ``burst`` at once after a pause.

    Source: the generic cell rate algorithm (ITU-T I.371): one number per caller, when its bucket will be full again.
    """

    def __init__(self, what: str, per_s: float, burst: int = 0) -> None:
        """``what`` asks, e.g. "a token"; ``per_s`` 0 is no limit; ``burst`` 0 is as many as in a second."""
        self._what = what
        self._per_s = per_s
        self._slack_s = (max(1.0, burst or per_s) - 1) / per_s if per_s else 0.0
        self._full: dict[str, float] = {}
        self._lock = threading.Lock()

    def take(self, caller: str) -> None:
        """Count one request; ``TooMany`` says when the next one is welcome."""
        if not self._per_s:
            return
        now = time.monotonic()
        with self._lock:
            full = max(self._full.get(caller, now), now)
            wait_s = full - now - self._slack_s
            if wait_s <= 1e-9:
                self._full[caller] = full + 1 / self._per_s
                if len(self._full) > MANY:
                    self._full = {known: moment for known, moment in self._full.items() if moment > now}
                return
        error = TooMany(
            f"{self._what} may ask {self._per_s:g} times a second; got more", f"ask again in {wait_s:.2g} s"
        )
        error.retry_after_s = wait_s
        raise error
