"""Watches deployments while they answer: what the engine runs and what people ask goes through here, off their way.

Requests only put references into bounded queues. One thread does the rest: capture, log, drift, alarms. Whatever goes
wrong there is counted and logged; no request ever waits for it or fails by it.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Arrays
from loopworks.core.errors import LoopworksError
from loopworks.infer.watch import keeping, rules
from loopworks.infer.watch.alerts import Alerts
from loopworks.infer.watch.judge import Recent, Seen
from loopworks.infer.watch.rules import Rules
from loopworks.infer.watch.watched import Clock, Watched
from loopworks.store import watching
from loopworks.store.home import Home

log = logging.getLogger(__name__)
TICK_S = 0.5
RULES_S = 2.0
SETTLE_S = 1.0
"""How long a run waits for the plain route to bring the original of what it was asked."""
MOST_RUNS, MOST_OFFERS, MOST_BYTES = 8_192, 1_024, 128 << 20
TOGETHER = 128
"""Runs that are looked at as one."""
MOST_ROWS = 1_000
"""Rows of a deployment's runs that are kept to be looked at between two ticks; of more, the first ones."""


class Answered(Protocol):
    """A loaded model: what is asked of ``infer.served.Served``."""

    name: str
    version: str
    bundle: Bundle
    variant: Variant
    facts: Mapping[str, Any]


class Original(Protocol):
    """One item as a person sent it: what is asked of ``infer.local.Loaded``."""

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def item(self) -> str:
        """Id of its content."""

    @property
    def content(self) -> Any:
        """Bytes, text or row."""

    @property
    def size(self) -> tuple[int, int] | None:
        """Of an image as it is shown, in pixels."""


@dataclass(frozen=True, slots=True)
class _Run:
    served: Answered
    inputs: Arrays
    outputs: Arrays
    rows: int
    at: float
    size: int


@dataclass(frozen=True, slots=True)
class _Offer:
    served: Answered
    items: Sequence[Original]
    inputs: Arrays
    outputs: Arrays
    at: float
    size: int


@dataclass(slots=True)
class Figures:
    """Counts since the start, for metrics: (deployment, what) -> number."""

    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By an error's code."""
    captured: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By rule."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Rows that nobody looked at, because too much waited."""
    alarms: Counter[str] = field(default_factory=Counter)


class Watcher:
    """All watched deployments of a server."""

    def __init__(self, home: Home, *, clock: Clock | None = None) -> None:
        """Read the rules and start; ``close`` stops and writes what is left."""
        self.home = home
        self.figures = Figures()
        self.silent: frozenset[tuple[str, str]] = frozenset()
        """(deployment, version) of what answers nobody, such as shadows: it is not watched."""
        self.recent = Recent()
        self._clock = clock or Clock()
        self._watched: dict[str, Watched] = {}
        self._runs: deque[_Run] = deque()
        self._offers: deque[_Offer] = deque()
        self._bytes = 0
        self._kept: Counter[str] = Counter()
        """Deployment -> rows of it that were kept since the last tick."""
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._stopping = threading.Event()
        self._rules_at = 0.0
        self._alerts = Alerts(home.settings.watch_secret, self._told)
        self._load_rules()
        self._thread = threading.Thread(target=self._work, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and write what is in the queues; calling it twice is harmless."""
        self._stopping.set()
        self._thread.join()
        self.flush()
        for watched in self._watched.values():
            watched.close()
        self._alerts.close()

    # ---- called by requests: microseconds

    def saw(self, served: Answered, inputs: Arrays, outputs: Arrays, rows: int) -> None:
        """The engine has run a model."""
        if served.name not in self._watched or (served.name, served.version) in self.silent:
            return
        with self._lock:
            if self._kept[served.name] >= MOST_ROWS:
                self.figures.dropped[served.name] += rows
                return
            size = _size(inputs)
            if len(self._runs) >= MOST_RUNS or self._bytes + size > MOST_BYTES:
                self.figures.dropped[served.name] += rows
                return
            self._kept[served.name] += rows
            self._bytes += size
            self._runs.append(_Run(served, inputs, outputs, rows, time.monotonic(), size))

    def is_watched(self, deployment: str) -> bool:
        """Whether anybody wants to see what it answers."""
        return deployment in self._watched

    def offer(self, served: Answered, items: Sequence[Original], inputs: Arrays, outputs: Arrays) -> None:
        """People were answered: their items as they came, with the tensors made of them, in the same order."""
        if served.name not in self._watched:
            return
        size = sum(len(one.content) if isinstance(one.content, bytes | str) else 1_000 for one in items)
        size += _size(inputs)
        with self._lock:
            if len(self._offers) >= MOST_OFFERS or self._bytes + size > MOST_BYTES:
                self.figures.dropped[served.name] += len(items)
                return
            self._bytes += size
            self._offers.append(_Offer(served, tuple(items), inputs, outputs, time.monotonic(), size))

    def feedback(self, deployment: str, item: str) -> bool:
        """A user says that the answer to an item was wrong: it is kept, where the rules say so and it is still here."""
        watched = self._watched.get(deployment)
        if watched is None or watched.rules.rule("feedback") is None:
            return False
        found = self.recent.get(deployment, item)
        if found is None:
            return False
        with self._turn:
            return self._safely(deployment, lambda: watched.capture_one(*found))

    # ---- the thread

    def flush(self) -> None:
        """Look at all that waits and write it now; for the end, and for tests."""
        with self._turn:
            self._load_rules()
            self._look(settle_s=0.0)
            self._write(is_all=True)

    def _work(self) -> None:
        while not self._stopping.wait(TICK_S):
            try:
                with self._turn:
                    if self._clock.monotonic() - self._rules_at >= RULES_S:
                        self._load_rules()
                    self._look(settle_s=SETTLE_S)
                    self._write(is_all=False)
            except Exception as error:  # the top of a thread: watching must go on, whatever one deployment does
                log.error("watching failed", exc_info=error)
                self.figures.failed["", "internal"] += 1

    def _load_rules(self) -> None:
        self._rules_at = self._clock.monotonic()
        try:
            with self.home.catalog.read() as tx:
                found = watching.rules(tx)
        except LoopworksError as error:
            log.warning("cannot read watch rules: %s", error)
            return
        for name in set(self._watched) - set(found):
            self._end(self._watched.pop(name))
        for name, (rev, body) in found.items():
            before = self._watched.get(name)
            if before is not None and before.rev == rev:
                continue
            try:
                parsed: Rules = rules.parse(body)
            except LoopworksError as error:
                log.error("cannot watch deployment=%s: %s", name, error)
                continue
            if before is not None:
                self._end(before)
            self._watched[name] = Watched(self.home, name, rev, parsed, self.figures, self._clock, self._alerts)

    def _end(self, watched: Watched) -> None:
        """Write what was seen by rules that hold no longer."""
        self._safely(watched.name, lambda: watched.write(is_all=True))
        watched.close()

    def _look(self, *, settle_s: float) -> None:
        for offer in self._taken_offers():
            if (watched := self._watched.get(offer.served.name)) is not None:
                seen = [
                    Seen(item=one.item, name=one.name, content=one.content, said=(), size=one.size)
                    for one in offer.items
                ]
                self._safely(offer.served.name, lambda w=watched, o=offer, s=seen: self._offered(w, o, s))
        for run in _joined(self._taken_runs(settle_s)):
            watched = self._watched.get(run.served.name)
            if watched is None:
                continue
            self._safely(
                run.served.name,
                lambda w=watched, r=run: w.ran(r.served, r.inputs, r.outputs, r.rows),
            )

    def _offered(self, watched: Watched, offer: _Offer, seen: Sequence[Seen]) -> None:
        told = watched.offered(offer.served, seen, offer.inputs, offer.outputs)
        if watched.rules.rule("feedback") is not None:
            for one in told:
                self.recent.add(offer.served.name, one, watched.ref(offer.served))

    def _write(self, *, is_all: bool) -> None:
        for name, watched in self._watched.items():
            self._safely(name, lambda w=watched: w.write(is_all=is_all))

    def _taken_offers(self) -> list[_Offer]:
        with self._lock:
            taken = list(self._offers)
            self._offers.clear()
            self._bytes -= sum(one.size for one in taken)
        return taken

    def _taken_runs(self, settle_s: float) -> list[_Run]:
        limit = time.monotonic() - settle_s
        taken: list[_Run] = []
        with self._lock:
            while self._runs and self._runs[0].at <= limit:
                taken.append(self._runs.popleft())
            self._bytes -= sum(one.size for one in taken)
            self._kept.clear()
        return taken

    def _safely(self, deployment: str, work: Any) -> bool:
        """Do it; what goes wrong (a full disk, a locked catalog, a broken input) is counted and the rest goes on."""
        try:
            return work() is not False
        except LoopworksError as error:
            self.figures.failed[deployment, error.code] += 1
            log.warning("capture failed deployment=%s error=%s", deployment, error)
        except Exception as error:  # a model, a picture or a disk may raise anything; the others are watched on
            code = "no_space" if isinstance(error, OSError) and error.errno == 28 else "internal"
            self.figures.failed[deployment, code] += 1
            log.warning("capture failed deployment=%s", deployment, exc_info=error)
        return False

    def _told(self, deployment: str, body: Mapping[str, Any]) -> None:
        try:
            with self.home.catalog.begin() as tx:
                watching.add_event(tx, deployment, "alert", body)
        except LoopworksError as error:
            log.warning("cannot record an alert deployment=%s: %s", deployment, error)


def _joined(runs: Sequence[_Run]) -> Iterator[_Run]:
    """Runs of one model put together where their tensors fit: looking at one row costs as much as at a hundred."""
    lots: dict[Any, list[_Run]] = {}
    for run in runs:
        if any(not array.ndim or len(array) != run.rows for array in (*run.inputs.values(), *run.outputs.values())):
            yield run  # of a model without a batch axis
            continue
        shapes = tuple((name, array.shape[1:], array.dtype) for name, array in run.inputs.items())
        lots.setdefault((id(run.served), shapes), []).append(run)
    for lot in lots.values():
        for at in range(0, len(lot), TOGETHER):
            some = lot[at : at + TOGETHER]
            first = some[0]
            yield _Run(
                first.served,
                {name: np.concatenate([run.inputs[name] for run in some]) for name in first.inputs},
                {name: np.concatenate([run.outputs[name] for run in some]) for name in first.outputs},
                sum(run.rows for run in some),
                first.at,
                0,
            )


def _size(arrays: Arrays) -> int:
    return sum(array.nbytes for array in arrays.values())


__all__ = ["Figures", "Watcher", "keeping"]
