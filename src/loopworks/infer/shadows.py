"""Second answers: what a shadow would have said, and what the live revision says of what a canary answered.

Requests are answered first. What they asked then waits, within bounds, for one thread that asks the other revision and
compares; where too much waits, it is dropped and counted. Nothing of this is ever returned to a client.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loopworks.core.contracts import Arrays, Learnable
from loopworks.core.errors import LoopworksError
from loopworks.core.registry import plugins
from loopworks.core.values import LabelSchema
from loopworks.infer.served import Served

log = logging.getLogger(__name__)
MAX_WAITING = 64
"""Runs that wait to be compared, at most."""
MAX_BYTES = 64 * 1024 * 1024
"""Input bytes that wait to be compared, at most."""
TIMEOUT_S = 30.0


@dataclass(slots=True, eq=False)
class Pair:
    """Two revisions that are compared, and what came of it; times of use may overlap, so counts only grow."""

    name: str
    live: str
    """Version of the live revision."""
    other: str
    """Version of the canary or shadow."""
    asked: Served
    """Who gives the second answer."""
    rows: int = 0
    agreed: float = 0.0
    dropped: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class _Waiting:
    pair: Pair
    schema: LabelSchema
    task: str
    inputs: Arrays
    outputs: Arrays
    rows: int
    size_bytes: int


class Shadows:
    """An observer of the engine that compares revisions in a thread of its own."""

    def __init__(self, max_waiting: int = MAX_WAITING, max_bytes: int = MAX_BYTES) -> None:
        """Nothing is compared before ``compare`` says what."""
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        self._pairs: dict[tuple[str, str], tuple[Pair, ...]] = {}
        self._known: dict[tuple[str, str, str], Pair] = {}
        self._queue: deque[_Waiting] = deque()
        self._held_bytes = 0
        self._ready = threading.Condition()
        self._is_open = True
        self._is_working = False
        self._thread: threading.Thread | None = None

    def compare(self, pairs: Mapping[tuple[str, str], Iterable[Pair]]) -> None:
        """From now on ask for second answers to what these models (name, version) answer, and to nothing else's."""
        found = {key: tuple(some) for key, some in pairs.items()}
        with self._ready:
            self._pairs = {key: some for key, some in found.items() if some}
            for pair in (pair for some in self._pairs.values() for pair in some):
                self._known[pair.name, pair.live, pair.other] = pair
            if self._pairs and self._thread is None:
                self._thread = threading.Thread(target=self._work, name="shadows", daemon=True)
                self._thread.start()

    def pair(self, name: str, live: str, other: str, asked: Served) -> Pair:
        """The pair of these two versions, with the counts that it has already."""
        known = self._known.get((name, live, other))
        return known if known is not None and known.asked is asked else _succeeds(Pair(name, live, other, asked), known)

    def saw(self, served: Served, inputs: Arrays, outputs: Arrays, rows: int) -> None:
        """Keep what was asked, if it shall be compared and there is room."""
        pairs = self._pairs.get((served.name, served.version))
        if pairs is None:
            return
        size = sum(array.nbytes for array in inputs.values())
        with self._ready:
            for pair in pairs:
                is_full = len(self._queue) >= self._max_waiting or self._held_bytes + size > self._max_bytes
                if is_full or not self._is_open:
                    pair.dropped += rows
                    continue
                bundle = served.bundle
                self._queue.append(_Waiting(pair, bundle.schema, bundle.task, inputs, outputs, rows, size))
                self._held_bytes += size
                self._ready.notify_all()

    def counts(self) -> list[Pair]:
        """Every pair that was ever compared in this process."""
        with self._ready:
            return list(self._known.values())

    def forget(self) -> list[Pair]:
        """Let go of the pairs that are not compared any more, and give them with their last counts."""
        with self._ready:
            used = {id(pair) for some in self._pairs.values() for pair in some} | {id(one.pair) for one in self._queue}
            gone = [] if self._is_working else [p for p in self._known.values() if id(p) not in used]
            for pair in gone:
                del self._known[pair.name, pair.live, pair.other]
            return gone

    def settle(self, timeout_s: float = TIMEOUT_S) -> bool:
        """Wait until all that waits is compared; whether that came to pass in time."""
        with self._ready:
            return self._ready.wait_for(lambda: not self._queue and not self._is_working, timeout_s)

    def close(self) -> None:
        """Drop what waits, and end; closing twice is harmless."""
        with self._ready:
            self._is_open = False
            for one in self._queue:
                one.pair.dropped += one.rows
            self._queue.clear()
            self._ready.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._ready:
                self._is_working = False
                self._ready.notify_all()
                self._ready.wait_for(lambda: self._queue or not self._is_open)
                if not self._queue:
                    return
                one = self._queue.popleft()
                self._held_bytes -= one.size_bytes
                self._is_working = True
            try:
                found = one.pair.asked.submit(one.inputs, TIMEOUT_S).result()
                share = alike(one.task, (one.outputs, one.schema), (found.outputs, one.pair.asked.bundle.schema))
            except Exception as error:  # whatever the other model does, the comparison of the rest goes on
                level = logging.INFO if isinstance(error, LoopworksError) else logging.WARNING
                log.log(level, "not compared model=%s version=%s error=%s", one.pair.name, one.pair.other, error)
                one.pair.failed += one.rows
                continue
            one.pair.agreed += share * one.rows
            one.pair.rows += one.rows


def alike(task: str, left: tuple[Arrays, LabelSchema], right: tuple[Arrays, LabelSchema]) -> float:
    """Share of items, in 0..1, on which two models give the same label.

    Models of the same classes are compared as their task kind does it; of others the names of the labels are, and of
    shapes those alone.
    """
    kind: Learnable = plugins.get(f"task.{task}")
    if left[1].classes == right[1].classes:
        return kind.agreement(left[0], right[0], left[1])
    named = [
        [frozenset(shape.label for shape, _ in item) for item in kind.labels(outputs, schema, "")]
        for outputs, schema in (left, right)
    ]
    same = sum(int(ours == theirs) for ours, theirs in zip(*named, strict=True))
    return same / max(1, len(named[0]))


def _succeeds(pair: Pair, before: Pair | None) -> Pair:
    if before is not None:
        pair.rows, pair.agreed, pair.dropped, pair.failed = before.rows, before.agreed, before.dropped, before.failed
    return pair
