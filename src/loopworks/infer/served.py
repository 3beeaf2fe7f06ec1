"""One loaded model: its signature, its queue, its worker threads, its statistics."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Arrays, Predictor
from loopworks.core.errors import Busy, Failed, LoopworksError, TimedOut, TooMany
from loopworks.core.limits import Limits
from loopworks.infer import loading, protocol
from loopworks.infer.forms import Form
from loopworks.infer.joining import Joining
from loopworks.infer.light import Asked, Light
from loopworks.infer.statistics import Statistics

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


@dataclass(slots=True, eq=False)
class _Waiting:
    inputs: Arrays
    make: Callable[[], Arrays] | None
    """Makes the inputs of one row, where they are not there yet."""
    size: int
    future: "Future[Answer]"
    since_ns: int
    deadline_ns: int


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
        limits: Limits | None = None,
        observer: Observer | None = None,
        statistics: Statistics | None = None,
    ) -> None:
        """Load and warm up.

        Args:
            name, bundle, variant, version: what is loaded, and as what it answers.
            facts: of its deployment, for whom they concern.
            limits: what it may take of the machine.
            observer: is shown every run.
            statistics: to go on with, where the same was loaded before.
        Raises: NotFound, Invalid, Damaged: it cannot be loaded, or is not what its bundle says.
        """
        self.name = name
        self.bundle = bundle
        self.variant: Variant = bundle.variant(variant)
        self.version = version
        self.facts: Mapping[str, Any] = dict(facts or {})
        self.limits = limits = limits or Limits(workers=1)
        self.is_batched = loading.is_batched(bundle)
        """Whether requests may share a run: all tensors have a free first axis."""
        self.max_batch = limits.max_batch
        """Most rows of a run at present: below the limit where runs took longer than they should."""
        self.statistics = statistics or Statistics()
        self.used = time.monotonic()
        """When it was asked last."""
        self._max_queue = limits.max_queue
        self._observer = observer
        self._joining = Joining()
        self._running = 0
        self._queue: deque[_Waiting] = deque()
        self._ready = threading.Condition()
        self._is_open = True
        loaded = loading.load(name, bundle, self.variant, limits)
        self._predictors = loaded.predictors
        self.memory_bytes = loaded.memory_bytes
        """What loading it took."""
        self.device = loaded.device
        """Who computes."""
        self.light: Light | None = None
        """Runs requests in the caller's thread, where the model is quick enough for that."""
        if loaded.light is not None:
            form = Form(bundle.inputs, bundle.outputs, model=name, version=version)
            self.light = Light(
                name,
                loaded.light,
                form,
                loaded.light_rows,
                check=self._checked,
                count=self._count,
                fail=self._count_failure,
            )
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
            TooMany: more than may be under way at once.
            Busy: too many wait already.
            Replaced: the model is closed.
        """
        return self._wait(inputs, None, protocol.check(inputs, self.bundle.inputs), timeout_s)

    def submit_made(self, make: Callable[[], Arrays], timeout_s: float) -> "Future[Answer]":
        """Queue a request of one row whose inputs the worker makes that answers it, e.g. by decoding a picture.

        What ``make`` raises is the answer of this request alone. Raises: as ``submit``, without ``Invalid``.
        """
        return self._wait({}, make, 1, timeout_s)

    def _wait(self, inputs: Arrays, make: Callable[[], Arrays] | None, size: int, timeout_s: float) -> "Future[Answer]":
        now = time.perf_counter_ns()
        waiting = _Waiting(inputs, make, size, Future(), now, now + int(timeout_s * 1e9))
        most = self.limits.max_concurrent
        with self._ready:
            if not self._is_open:
                raise Replaced(f"model {self.name!r} version {self.version} was unloaded", "try again")
            if len(self._queue) >= self._max_queue or (most and len(self._queue) + self._running >= most):
                self._forget_cancelled()
            if most and len(self._queue) + self._running >= most:
                what = f"at most {most} requests for model {self.name!r} may be under way"
                raise self._later(TooMany(f"{what}; got one more", "ask fewer at once, or try again later"))
            if len(self._queue) >= self._max_queue:
                limit = self._max_queue
                raise self._later(
                    Busy(f"at most {limit} requests may wait for model {self.name!r}; got one more", "try again later")
                )
            self.used = time.monotonic()
            self._queue.append(waiting)
            self._ready.notify()
        return waiting.future

    def _later(self, error: Busy) -> Busy:
        """Tell the client when what waits now will have been answered, as far as runs until now tell."""
        found = self.statistics
        per_row = sum(list(found.batch_ns.values())) / 1e9 / max(1, found.inferences)
        error.retry_after_s = sum(one.size for one in self._queue) * per_row / len(self._threads)
        return error

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer of it."""
        return not self._queue and not self._running

    def close(self) -> None:
        """Answer what waits, then stop the workers and free the predictors; closing twice is harmless."""
        with self._ready:
            self._is_open = False
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()
        if self.light is not None:
            self.light.close()  # first: it may be running the workers' own predictor
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

    # ---- working

    def _work(self, predictor: Predictor) -> None:
        while (found := self._take()) is not None:
            batch, late = found
            for one in late:
                reason = f"model {self.name!r} must answer before the deadline; got a longer queue"
                self._fail(one, TimedOut(reason, "try again later, or wait longer"))
            if batch:
                try:
                    taken = time.perf_counter_ns()
                    if made := self._make(batch):
                        self._run(predictor, made, taken)
                finally:
                    with self._ready:
                        self._running -= len(batch)

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
                    self._running += len(batch)
                    return batch, late
                if not self._is_open:
                    return None
                self._ready.wait()

    def _joins(self, batch: list[_Waiting], one: _Waiting) -> bool:
        if not batch:
            return True
        if not (self.is_batched and self._joining.is_on):
            return False
        if sum(other.size for other in batch) + one.size > self.max_batch:
            return False
        if batch[0].make is not None or one.make is not None:
            return batch[0].make is not None and one.make is not None  # made by one rule, so of one shape
        first = batch[0].inputs  # all but the first axis agree
        return all(first[name].shape[1:] == array.shape[1:] for name, array in one.inputs.items())

    def _make(self, batch: list[_Waiting]) -> list[_Waiting]:
        """Make the inputs that are not there yet; those whose cannot be made are told why."""
        found = []
        for one in batch:
            try:
                if one.make is not None:
                    one.inputs = one.make()
                    one.make = None
                    protocol.check(one.inputs, self.bundle.inputs)
                found.append(one)
            except Exception as error:  # whatever is wrong with one, the others are answered
                self._fail(one, error)
        return found

    def _run(self, predictor: Predictor, batch: list[_Waiting], taken: int) -> None:
        size = sum(one.size for one in batch)
        try:
            joined = _join([one.inputs for one in batch])
            began = time.perf_counter_ns()
            outputs = self._predict(predictor, joined, size)
            ended = time.perf_counter_ns()
            parts = self._split(outputs, batch)
        except Exception as error:  # a runtime may raise anything; the worker must live on
            if len(batch) > 1:
                for one in batch:  # one bad request must not fail its neighbours
                    self._run(predictor, [one], taken)
                return
            log.warning("inference failed model=%s version=%s error=%s", self.name, self.version, error)
            known = isinstance(error, LoopworksError)
            self._fail(batch[0], error if known else Failed(f"model {self.name!r} must answer; got error: {error}"))
            return
        self._count(batch, size, (taken, began, ended, time.perf_counter_ns()))
        self._adapt(size, (ended - began) / 1e6)
        with self._ready:
            is_alone = self._joining.saw(len(batch), size, (ended - began) / 1e9, len(self._queue))
        for each in self._predictors if is_alone else ():
            if (trim := getattr(each, "trim", None)) is not None:
                trim()
        for one, part in zip(batch, parts, strict=True):
            one.future.set_result(
                Answer(outputs=part, served=self, queue_ns=taken - one.since_ns, compute_ns=ended - began)
            )
        self.seen(joined, outputs, size)

    def _adapt(self, size: int, ms: float) -> None:
        """Halve the batch after a run above the target, and let it grow row by row while runs keep well below."""
        target = self.limits.target_ms
        if not target:
            return
        if ms > target and size > 1:
            self.max_batch = max(1, size // 2)
        elif size >= self.max_batch and ms < 0.8 * target:
            self.max_batch = min(self.limits.max_batch, self.max_batch + 1)

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
        return loading.checked(self.name, self.bundle, outputs, size)

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

    def _count(self, batch: "Sequence[_Waiting | Asked]", size: int, times: tuple[int, int, int, int]) -> None:
        """``times``: when the run was taken up, its inputs joined, its outputs there, and these split."""
        taken, joined, computed, split = times
        many, since = len(batch), sum(one.since_ns for one in batch)
        with self._ready:
            found = self.statistics
            found.success += many
            found.inferences += size
            found.executions += 1
            found.queue_ns += many * taken - since
            found.success_ns += many * split - since
            found.input_ns += many * (joined - taken)
            found.compute_ns += many * (computed - joined)
            found.output_ns += many * (split - computed)
            found.last_ms = time.time_ns() // 1_000_000
            found.batches[size] += 1
            found.batch_ns[size] += computed - joined

    def _count_failure(self, one: "_Waiting | Asked") -> None:
        with self._ready:
            self.statistics.failure += 1
            self.statistics.failure_ns += time.perf_counter_ns() - one.since_ns

    def _fail(self, one: _Waiting, error: Exception) -> None:
        self._count_failure(one)
        one.future.set_exception(error)

    def _forget_cancelled(self) -> None:
        kept = [one for one in self._queue if not one.future.cancelled()]
        self._queue.clear()
        self._queue.extend(kept)


def _join(parts: list[Arrays]) -> Arrays:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
