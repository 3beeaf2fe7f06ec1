"""The engine: many models, each with a queue and worker threads that take everything that waits as one batch.

Greedy batching: an idle worker takes what is queued, up to ``max_batch``, and never waits for more, so a lone request
pays nothing and a burst is answered in few runs. Runtimes let go of the GIL, so worker threads use all cores.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np

from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Arrays, Predictor
from loopworks.core.errors import Busy, Failed, LoopworksError, NotFound, TimedOut
from loopworks.core.registry import plugins
from loopworks.infer import protocol

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Statistics:
    """What a served model did since it was loaded; times in nanoseconds."""

    success: int = 0
    failure: int = 0
    inferences: int = 0
    executions: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    failure_ns: int = 0
    last_ms: int = 0
    batches: Counter[int] = field(default_factory=Counter)
    batch_ns: Counter[int] = field(default_factory=Counter)


@dataclass(slots=True, eq=False)
class _Waiting:
    inputs: Arrays
    size: int
    future: "Future[Arrays]"
    since_ns: int
    deadline_ns: int


class Served:
    """One loaded model: its signature, its queue, its worker threads."""

    def __init__(
        self,
        name: str,
        bundle: Bundle,
        *,
        variant: str = "",
        version: str = "1",
        facts: Mapping[str, Any] | None = None,
        workers: int = 1,
        max_batch: int = 32,
        max_queue: int = 1024,
    ) -> None:
        """Load and warm up; every worker has a predictor of its own, as predictors serve one thread at a time."""
        self.name = name
        self.bundle = bundle
        self.variant: Variant = bundle.variant(variant)
        self.version = version
        self.facts: Mapping[str, Any] = dict(facts or {})
        self.max_batch = max_batch
        self.statistics = Statistics()
        self._max_queue = max_queue
        self._queue: deque[_Waiting] = deque()
        self._ready = threading.Condition()
        self._is_open = True
        self._predictors = [self._load() for _ in range(workers)]
        self._threads = [
            threading.Thread(target=self._work, args=(predictor,), name=f"infer-{name}-{i}", daemon=True)
            for i, predictor in enumerate(self._predictors)
        ]
        for thread in self._threads:
            thread.start()

    def _load(self) -> Predictor:
        runtime = plugins.get(f"runtime.{self.variant.runtime}")()
        path = self.bundle.path(self.variant.file)
        predictor: Predictor = runtime.load(path, threads=1, precision=self.variant.precision)
        predictor.predict(self._example())
        return predictor

    def _example(self) -> Arrays:
        found = {}
        for spec in self.bundle.inputs:
            shape = [1 if size == -1 else size for size in spec.shape]
            found[spec.name] = np.zeros(shape, object if spec.datatype == "BYTES" else protocol.DTYPES[spec.datatype])
        return found

    def submit(self, inputs: Arrays, timeout_s: float = 30.0) -> "Future[Arrays]":
        """Queue a request.

        Raises:
            Invalid: names, types or shapes differ from the model's inputs.
            Busy: too many wait already.
        """
        size = protocol.check(inputs, self.bundle.inputs)
        now = time.perf_counter_ns()
        waiting = _Waiting(inputs, size, Future(), now, now + int(timeout_s * 1e9))
        with self._ready:
            if not self._is_open:
                raise Busy(f"model {self.name!r} is being unloaded", "try again")
            if len(self._queue) >= self._max_queue:
                raise Busy(
                    f"the queue of model {self.name!r} must be shorter than {self._max_queue}", "try again later"
                )
            self._queue.append(waiting)
            self._ready.notify()
        return waiting.future

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    def close(self) -> None:
        """Answer what waits, then stop the workers and free the predictors; closing twice is harmless."""
        with self._ready:
            self._is_open = False
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()
        for predictor in self._predictors:
            predictor.close()

    def _work(self, predictor: Predictor) -> None:
        while (taken := self._take()) is not None:
            batch, late = taken
            if late:
                self._fail(late, TimedOut(f"model {self.name!r} must answer before the deadline; got a longer queue"))
            if batch:
                self._run(predictor, batch)

    def _take(self) -> tuple[list[_Waiting], list[_Waiting]] | None:
        """What waits, oldest first, as one batch, and what waited too long; ``None`` when the model closes."""
        with self._ready:
            while True:
                batch: list[_Waiting] = []
                late: list[_Waiting] = []
                size = 0
                while self._queue and (not batch or size + self._queue[0].size <= self.max_batch):
                    if batch and not _fit(batch[0].inputs, self._queue[0].inputs):
                        break  # another shape begins the next batch
                    one = self._queue.popleft()
                    if not one.future.set_running_or_notify_cancel():
                        continue  # the client has gone
                    if time.perf_counter_ns() > one.deadline_ns:
                        late.append(one)
                        continue
                    batch.append(one)
                    size += one.size
                if batch or late:
                    return batch, late
                if not self._is_open:
                    return None
                self._ready.wait()

    def _run(self, predictor: Predictor, batch: list[_Waiting]) -> None:
        began = time.perf_counter_ns()
        try:
            outputs = predictor.predict(_joined([one.inputs for one in batch]))
        except Exception as error:  # a runtime may raise anything; the worker must live on
            if len(batch) > 1:
                for one in batch:  # one bad request must not fail its neighbours
                    self._run(predictor, [one])
                return
            log.warning("inference failed model=%s error=%s", self.name, error)
            reason = error if isinstance(error, LoopworksError) else Failed(f"model {self.name!r} failed: {error}")
            self._fail(batch, reason)
            return
        self._count(batch, began, time.perf_counter_ns())
        at = 0
        for one in batch:
            part = {name: array[at : at + one.size] for name, array in outputs.items()}
            at += one.size
            one.future.set_result(part)

    def _count(self, batch: list[_Waiting], began: int, ended: int) -> None:
        size = sum(one.size for one in batch)
        with self._ready:
            found = self.statistics
            found.success += len(batch)
            found.inferences += size
            found.executions += 1
            found.queue_ns += sum(began - one.since_ns for one in batch)
            found.compute_ns += ended - began
            found.last_ms = time.time_ns() // 1_000_000
            found.batches[size] += 1
            found.batch_ns[size] += ended - began

    def _fail(self, batch: list[_Waiting], error: LoopworksError) -> None:
        with self._ready:
            self.statistics.failure += len(batch)
            self.statistics.failure_ns += sum(time.perf_counter_ns() - one.since_ns for one in batch)
        for one in batch:
            one.future.set_exception(error)


def _fit(left: Arrays, right: Arrays) -> bool:
    """Whether two requests can be one batch: all but the first axis agree."""
    return all(left[name].shape[1:] == array.shape[1:] for name, array in right.items())


def _joined(requests: list[Arrays]) -> Arrays:
    if len(requests) == 1:
        return requests[0]
    return {name: np.concatenate([inputs[name] for inputs in requests]) for name in requests[0]}


class Engine:
    """All loaded models by name. Loading a name again swaps it without losing a request."""

    def __init__(self, *, workers: int = 1, max_batch: int = 32, max_queue: int = 1024) -> None:
        """``workers`` threads per model, batches of at most ``max_batch``, at most ``max_queue`` waiting per model."""
        self._workers = max(1, workers)
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._models: dict[str, Served] = {}
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def __enter__(self) -> Self:
        """The engine itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def load(
        self,
        name: str,
        bundle: Bundle,
        *,
        variant: str = "",
        version: str = "1",
        facts: Mapping[str, Any] | None = None,
    ) -> Served:
        """Load a model and let it answer under ``name``; the one before answers what it has queued, then goes."""
        with self._loading:
            fresh = Served(
                name,
                bundle,
                variant=variant,
                version=version,
                facts=facts,
                workers=self._workers,
                max_batch=self._max_batch,
                max_queue=self._max_queue,
            )
            with self._lock:
                old = self._models.get(name)
                self._models[name] = fresh
        if old is not None:
            old.close()
        log.info("loaded model=%s version=%s variant=%s", name, version, fresh.variant.name)
        return fresh

    def unload(self, name: str) -> None:
        """Take a model away after it has answered what waits; ``NotFound`` where there is none."""
        with self._lock:
            old = self._models.pop(name, None)
        if old is None:
            raise NotFound("model", name, self.names())
        old.close()

    def names(self) -> list[str]:
        """Names of the loaded models, sorted."""
        with self._lock:
            return sorted(self._models)

    def model(self, name: str, version: str = "") -> Served:
        """The model called ``name``; ``NotFound`` where the name or its version is not loaded."""
        with self._lock:
            found = self._models.get(name)
        if found is None:
            raise NotFound("model", name, self.names())
        if version and version != found.version:
            raise NotFound(f"version of model {name!r}", version, [found.version])
        return found

    def submit(self, name: str, inputs: Arrays, *, version: str = "", timeout_s: float = 30.0) -> "Future[Arrays]":
        """Queue a request for a model; where it is swapped at this very moment, for its successor."""
        for _ in range(3):
            served = self.model(name, version)
            try:
                return served.submit(inputs, timeout_s)
            except Busy:
                if self.model(name, version) is served:
                    raise
        raise Busy(f"model {name!r} is being replaced", "try again")

    def close(self) -> None:
        """Unload everything."""
        with self._lock:
            models, self._models = list(self._models.values()), {}
        for served in models:
            served.close()
