"""One loaded model: its signature, its queue, its worker threads, its statistics."""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Arrays, Predictor
from loopworks.core.errors import Busy, Failed, Invalid, LoopworksError, TimedOut
from loopworks.core.values import TensorSpec
from loopworks.infer import protocol

log = logging.getLogger(__name__)


class Replaced(Busy):
    """The model was unloaded or replaced between finding it and asking it; look again under its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model said of one request, and which model it was."""

    outputs: Arrays
    """Named as in the bundle; the first axis has as many rows as the request."""
    served: "Served"
    queue_ns: int
    compute_ns: int
    """Of the whole batch that the request was part of."""


class Observer(Protocol):
    """Sees what models were asked and said; must take microseconds, and can fail nobody's request."""

    def saw(self, served: "Served", inputs: Arrays, outputs: Arrays, rows: int) -> None:
        """One run of a model: the tensors of all its requests together; called once they have their answers."""


@dataclass(slots=True)
class Statistics:
    """What a served model did since it was loaded; times in nanoseconds."""

    success: int = 0
    failure: int = 0
    inferences: int = 0
    """Rows answered."""
    executions: int = 0
    """Runs of the model."""
    success_ns: int = 0
    failure_ns: int = 0
    queue_ns: int = 0
    """Summed over requests, as are the three below: every request of a batch waits for the whole of it."""
    input_ns: int = 0
    compute_ns: int = 0
    output_ns: int = 0
    unseen: int = 0
    """Runs that the observer failed on."""
    last_ms: int = 0
    """When it last answered, milliseconds since 1970."""
    batches: Counter[int] = field(default_factory=Counter)
    """Rows of a run -> number of such runs."""
    batch_ns: Counter[int] = field(default_factory=Counter)
    """Rows of a run -> time of all such runs."""


@dataclass(slots=True, eq=False)
class _Waiting:
    inputs: Arrays
    size: int
    future: "Future[Answer]"
    since_ns: int
    deadline_ns: int


@dataclass(frozen=True, slots=True)
class _Times:
    """Moments of one run."""

    taken: int
    joined: int
    computed: int
    split: int


class Served:
    """One loaded model. ``Engine`` makes these."""

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
        observer: Observer | None = None,
    ) -> None:
        """Load and warm up; every worker has a predictor of its own, as predictors serve one thread at a time."""
        self.name = name
        self.bundle = bundle
        self.variant: Variant = bundle.variant(variant)
        self.version = version
        self.facts: Mapping[str, Any] = dict(facts or {})
        self.is_batched = all(spec.shape[:1] == (-1,) for spec in (*bundle.inputs, *bundle.outputs))
        """Whether requests may share a run: all tensors have a free first axis."""
        self.max_batch = max_batch
        self.statistics = Statistics()
        self._observer = observer
        self._max_queue = max_queue
        self._queue: deque[_Waiting] = deque()
        self._ready = threading.Condition()
        self._is_open = True
        self._predictors = self._load_all(workers)
        self._threads = [
            threading.Thread(target=self._work, args=(predictor,), name=f"infer-{name}-{i}", daemon=True)
            for i, predictor in enumerate(self._predictors)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, inputs: Arrays, timeout_s: float) -> "Future[Answer]":
        """Queue a request.

        Raises:
            Invalid: names, types or shapes differ from the model's inputs.
            Busy: too many wait already.
            Replaced: the model is closed.
        """
        size = protocol.check(inputs, self.bundle.inputs)
        now = time.perf_counter_ns()
        waiting = _Waiting(inputs, size, Future(), now, now + int(timeout_s * 1e9))
        with self._ready:
            if not self._is_open:
                raise Replaced(f"model {self.name!r} version {self.version} was unloaded", "try again")
            if len(self._queue) >= self._max_queue:
                self._forget_cancelled()
            if len(self._queue) >= self._max_queue:
                limit = self._max_queue
                raise Busy(
                    f"at most {limit} requests may wait for model {self.name!r}; got one more", "try again later"
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

    def seen(self, inputs: Arrays, outputs: Arrays, rows: int) -> None:
        """Show a run to the observer, if there is one."""
        if self._observer is None:
            return
        try:
            self._observer.saw(self, inputs, outputs, rows)
        except Exception as error:  # whatever watches must not disturb what it watches
            self.statistics.unseen += 1
            if self.statistics.unseen == 1:
                log.error("observer failed model=%s version=%s", self.name, self.version, exc_info=error)

    # ---- loading

    def _load_all(self, workers: int) -> list[Predictor]:
        found: list[Predictor] = []
        try:
            for _ in range(workers):
                found.append(self._load())
                self._warm_up(found[-1])
        except BaseException:
            for predictor in found:
                predictor.close()
            raise
        return found

    def _load(self) -> Predictor:
        return predictors.load(self.variant, self.bundle.folder, self.bundle.rule, threads=1)

    def _warm_up(self, predictor: Predictor) -> None:
        """Answer one row of zeros, so that the first user does not wait and a wrong bundle never gets into use."""
        if any(-1 in spec.shape[1:] for spec in self.bundle.inputs):
            return  # which sizes are sensible, only the model knows
        inputs = {spec.name: _zeros(spec) for spec in self.bundle.inputs}
        try:
            outputs = self._checked(predictor.predict(inputs), 1)
        except LoopworksError:
            raise
        except Exception as error:  # a runtime may raise anything
            raise Invalid(f"variant {self.variant.name} of model {self.name!r}", "able to answer", str(error)) from None
        for spec in self.bundle.outputs:
            given = outputs[spec.name]
            if protocol.datatype_of(given) != spec.datatype or not protocol.fits(given.shape, spec):
                raise Invalid(
                    f"output {spec.name} of model {self.name!r}",
                    f"{spec.datatype} of shape {list(spec.shape)}",
                    f"{given.dtype} of shape {list(given.shape)}",
                )

    # ---- working

    def _work(self, predictor: Predictor) -> None:
        while (taken := self._take()) is not None:
            batch, late = taken
            for one in late:
                reason = f"model {self.name!r} must answer before the deadline; got a longer queue"
                self._fail(one, TimedOut(reason, "try again later, or wait longer"))
            if batch:
                self._run(predictor, batch)

    def _take(self) -> tuple[list[_Waiting], list[_Waiting]] | None:
        """What waits, oldest first, as one batch, and what waited too long; ``None`` when the model closes."""
        with self._ready:
            while True:
                batch: list[_Waiting] = []
                late: list[_Waiting] = []
                while self._queue and self._joins(batch, self._queue[0]):
                    one = self._queue.popleft()
                    if not one.future.set_running_or_notify_cancel():
                        continue  # the client has gone
                    (late if time.perf_counter_ns() > one.deadline_ns else batch).append(one)
                if batch or late:
                    return batch, late
                if not self._is_open:
                    return None
                self._ready.wait()

    def _joins(self, batch: list[_Waiting], one: _Waiting) -> bool:
        if not batch:
            return True
        if not self.is_batched or sum(other.size for other in batch) + one.size > self.max_batch:
            return False
        first = batch[0].inputs  # all but the first axis agree
        return all(first[name].shape[1:] == array.shape[1:] for name, array in one.inputs.items())

    def _run(self, predictor: Predictor, batch: list[_Waiting]) -> None:
        size = sum(one.size for one in batch)
        taken = time.perf_counter_ns()
        try:
            joined = _join([one.inputs for one in batch])
            began = time.perf_counter_ns()
            outputs = self._predict(predictor, joined, size)
            ended = time.perf_counter_ns()
            parts = self._split(outputs, batch)
        except Exception as error:  # a runtime may raise anything; the worker must live on
            if len(batch) > 1:
                for one in batch:  # one bad request must not fail its neighbours
                    self._run(predictor, [one])
                return
            log.warning("inference failed model=%s version=%s error=%s", self.name, self.version, error)
            known = isinstance(error, LoopworksError)
            self._fail(batch[0], error if known else Failed(f"model {self.name!r} must answer; got error: {error}"))
            return
        times = _Times(taken, began, ended, time.perf_counter_ns())
        self._count(batch, size, times)
        for one, part in zip(batch, parts, strict=True):
            one.future.set_result(
                Answer(outputs=part, served=self, queue_ns=taken - one.since_ns, compute_ns=ended - began)
            )
        self.seen(joined, outputs, size)

    def _predict(self, predictor: Predictor, inputs: Arrays, size: int) -> Arrays:
        """Answer ``size`` rows; more than ``max_batch`` of one request go in pieces, so that memory stays bounded."""
        if not self.is_batched or size <= self.max_batch:
            return self._checked(predictor.predict(inputs), size)
        found = []
        for at in range(0, size, self.max_batch):
            piece = {name: array[at : at + self.max_batch] for name, array in inputs.items()}
            found.append(self._checked(predictor.predict(piece), min(self.max_batch, size - at)))
        return _join(found)

    def _checked(self, outputs: Arrays, size: int) -> Arrays:
        """The outputs that the bundle names, each with a row per input row."""
        for spec in self.bundle.outputs:
            if spec.name not in outputs:
                raise Invalid(f"outputs of model {self.name!r}", f"with {spec.name}", ", ".join(outputs) or "none")
            if self.is_batched and outputs[spec.name].shape[:1] != (size,):
                given = list(outputs[spec.name].shape)
                raise Failed(f"output {spec.name} of model {self.name!r} must have {size} rows; got shape {given}")
        return {spec.name: outputs[spec.name] for spec in self.bundle.outputs}

    def _split(self, outputs: Arrays, batch: list[_Waiting]) -> list[Arrays]:
        if len(batch) == 1:
            return [outputs]
        parts: list[Arrays] = []
        at = 0
        for one in batch:
            parts.append({name: array[at : at + one.size] for name, array in outputs.items()})
            at += one.size
        return parts

    # ---- counting

    def _count(self, batch: list[_Waiting], size: int, times: _Times) -> None:
        many = len(batch)
        with self._ready:
            found = self.statistics
            found.success += many
            found.inferences += size
            found.executions += 1
            found.queue_ns += sum(times.taken - one.since_ns for one in batch)
            found.success_ns += sum(times.split - one.since_ns for one in batch)
            found.input_ns += many * (times.joined - times.taken)
            found.compute_ns += many * (times.computed - times.joined)
            found.output_ns += many * (times.split - times.computed)
            found.last_ms = time.time_ns() // 1_000_000
            found.batches[size] += 1
            found.batch_ns[size] += times.computed - times.joined

    def _fail(self, one: _Waiting, error: Exception) -> None:
        with self._ready:
            self.statistics.failure += 1
            self.statistics.failure_ns += time.perf_counter_ns() - one.since_ns
        one.future.set_exception(error)

    def _forget_cancelled(self) -> None:
        kept = [one for one in self._queue if not one.future.cancelled()]
        self._queue.clear()
        self._queue.extend(kept)


def _zeros(spec: TensorSpec) -> Any:
    shape = [1 if size == -1 else size for size in spec.shape]
    if spec.datatype == "BYTES":
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, protocol.DTYPES[spec.datatype])


def _join(parts: list[Arrays]) -> Arrays:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
