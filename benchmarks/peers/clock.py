"""Times steps and prints them as one JSON line with the memory peak; imported by the scripts beside it."""

import json
import resource
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Clock:
    """Seconds of named steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, name: str, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        found = work()
        self.seconds[name] = round(time.perf_counter() - start, 4)
        return found

    def done(self) -> None:
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        print(json.dumps({**self.seconds, "peak_mb": round(peak / 1024)}))
