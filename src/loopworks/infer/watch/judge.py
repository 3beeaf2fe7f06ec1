"""Which inputs are worth keeping: the capture rules on one lot of inputs and answers, and how many they may choose."""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays, learnable
from loopworks.core.registry import plugins
from loopworks.infer.watch import traits
from loopworks.infer.watch.reference import Reference
from loopworks.infer.watch.rules import Capture, Rules

HOUR_S, DAY_S = 3600.0, 86_400.0
Second = Callable[[Arrays], Arrays]
"""Another model's answer to packed tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One input with its answer."""

    item: str
    name: str
    content: Any
    """Bytes of an image file, a text, or a row."""
    said: traits.Said
    """The model's answer, in pixels of the image as it is shown."""
    size: tuple[int, int] | None = None
    key: str = ""
    at: float = field(default_factory=time.time)


class Budget:
    """At most so many an hour and a day, each counted back from now."""

    def __init__(self, per_hour: int, per_day: int, clock: Callable[[], float] = time.time) -> None:
        """Nothing is spent yet."""
        self._limits = ((HOUR_S, per_hour), (DAY_S, per_day))
        self._clock = clock
        self._spent: deque[float] = deque()

    def take(self) -> bool:
        """Spend one, where that is allowed."""
        now = self._clock()
        while self._spent and now - self._spent[0] >= DAY_S:
            self._spent.popleft()
        for span, limit in self._limits:
            if limit <= 0:
                return False
            if len(self._spent) >= limit and now - self._spent[-limit] < span:
                return False
        self._spent.append(now)
        return True


class Judge:
    """The capture rules of one deployment at work."""

    def __init__(self, rules: Rules, *, seed: int | None = None, clock: Callable[[], float] = time.time) -> None:
        """Judge by ``rules``."""
        self.rules = rules
        self._rng = np.random.default_rng(seed)
        self._budgets = {rule.name: Budget(rule.per_hour, rule.per_day, clock) for rule in rules.capture}

    def reasons(
        self, bundle: Bundle, inputs: Arrays, outputs: Arrays, *, reference: Reference | None, second: Second | None
    ) -> list[list[str]]:
        """For each input, the rules that choose it; budgets are not asked yet.

        Args:
            bundle: the model's.
            inputs: packed tensors.
            outputs: its answers.
            reference: the training data, for ``far``; ``None``: no input is far.
            second: another model, for ``disagree``; ``None``: nobody disagrees.
        """
        task = learnable(plugins.get(f"task.{bundle.task}"))
        count = len(next(iter(outputs.values())))
        found: list[list[str]] = [[] for _ in range(count)]

        def note(rule: Capture, chosen: NDArray[np.bool_]) -> None:
            for at in np.flatnonzero(chosen):
                found[at].append(rule.name)

        for rule in self.rules.capture:
            if rule.when == "uncertain":
                note(rule, task.uncertainty(outputs, bundle.schema) >= rule.above)
            elif rule.when == "random":
                note(rule, self._rng.random(count) < (rule.share or 0.0))
            elif rule.when == "far" and reference is not None:
                distances = reference.distances(traits.of_inputs(bundle.rule, inputs))
                note(rule, distances > reference.limit(rule.beyond))
            elif rule.when == "disagree" and second is not None:
                note(rule, self._disagreeing(rule, bundle, inputs, outputs, second))
        return found

    def spend(self, reasons: Sequence[str]) -> list[str]:
        """Those of the reasons that have budget left, each spent."""
        return [name for name in reasons if self._budgets[name].take()]

    def _disagreeing(
        self, rule: Capture, bundle: Bundle, inputs: Arrays, outputs: Arrays, second: Second
    ) -> NDArray[np.bool_]:
        count = len(next(iter(outputs.values())))
        found = np.zeros(count, np.bool_)
        asked = np.flatnonzero(self._rng.random(count) < (0.1 if rule.share is None else rule.share))
        if not len(asked):
            return found
        theirs = second({name: values[asked] for name, values in inputs.items()})
        ours = {name: values[asked] for name, values in outputs.items()}
        task = learnable(plugins.get(f"task.{bundle.task}"))
        for place, at in enumerate(asked):
            one = slice(place, place + 1)
            alike = task.agreement(_cut(ours, one), _cut(theirs, one), bundle.schema)
            found[at] = alike < 1.0
        return found


def _cut(arrays: Arrays, at: slice) -> dict[str, NDArray[Any]]:
    return {name: values[at] for name, values in arrays.items()}


class Recent:
    """The last inputs, for users who say afterwards that an answer was wrong; bounded in number and bytes."""

    def __init__(self, most: int = 1_000, most_bytes: int = 64 << 20) -> None:
        """Nothing is held yet."""
        self._most, self._most_bytes = most, most_bytes
        self._held: OrderedDict[tuple[str, str], tuple[Seen, str, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, deployment: str, seen: Seen, model: str) -> None:
        """Hold one more; the oldest go."""
        size = len(seen.content) if isinstance(seen.content, bytes | str) else 1_000
        with self._lock:
            self._drop((deployment, seen.item))
            self._held[deployment, seen.item] = (seen, model, size)
            self._bytes += size
            while self._held and (len(self._held) > self._most or self._bytes > self._most_bytes):
                self._drop(next(iter(self._held)))

    def get(self, deployment: str, item: str) -> tuple[Seen, str] | None:
        """The input and the model that answered it, where it is still here."""
        with self._lock:
            found = self._held.get((deployment, item))
        return None if found is None else found[:2]

    def _drop(self, key: tuple[str, str]) -> None:
        if (gone := self._held.pop(key, None)) is not None:
            self._bytes -= gone[2]
