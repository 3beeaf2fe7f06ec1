"""Running a light model where it is called: no queue, no thread, all requests of a moment as one batch.

A hand-over to a thread and back costs more than a small model's answer. What counts as light is measured when the
model is warmed up, and followed while it serves.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from loopworks.core.contracts import Arrays, Predictor
from loopworks.core.errors import Failed, Invalid, LoopworksError
from loopworks.infer.forms import Form, Plain

log = logging.getLogger(__name__)
LIGHT_S = 0.0003
"""A run that takes longer is not light: the event loop would wait for it too long."""
SLOW_TIMES = 4.0
"""How many times as long as that the quickest of ``RUNS`` runs may take before the model is left to its threads."""
RUNS = 16
PAUSE_S = 5.0
"""For how long it is left to them, then."""
SIZES = (1, 4, 8, 16, 32, 64)
"""Rows of a batch that are tried at warm-up."""


class Asked:
    """One request for a light model; ``Light.run`` fills in ``outputs``, ``answer`` or ``error``."""

    __slots__ = ("answer", "error", "inputs", "outputs", "plain", "rows", "since_ns")

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.rows = 0
        self.since_ns = 0
        """When it was read."""
        self.plain: Plain | None = None
        self.inputs: Arrays | None = None
        """Where the request is not of the plain form."""
        self.outputs: Arrays | None = None
        """Of the request alone."""
        self.answer: bytes | None = None
        """The body of the answer, where request and answer are of the plain form."""
        self.error: Exception | None = None


class OutOfRange(Invalid):
    """A number of a plain request does not fit its type; ``protocol`` says which."""


class Light:
    """A predictor of its own for runs in the caller's thread; one run at a time."""

    def __init__(
        self,
        name: str,
        predictor: Predictor,
        form: Form,
        rows: int,
        *,
        check: Callable[[Arrays, int], Arrays],
        count: Callable[[Sequence[Asked], int, tuple[int, int, int, int]], None],
        fail: Callable[[Asked], None],
    ) -> None:
        """Run ``predictor``, at most ``rows`` at once; the rest are the served model's own methods."""
        self.form = form
        self.rows = rows
        self._name = name
        self._predictor = predictor
        self._check, self._count, self._fail = check, count, fail
        self._lock = threading.Lock()
        self._runs = 0
        self._quickest_s = float("inf")
        self._rest_until = 0.0
        self.is_open = True

    @property
    def is_ready(self) -> bool:
        """Whether runs are as short as they should be; where they were not, it is tried again later."""
        return self.is_open and time.monotonic() >= self._rest_until

    def run(self, asked: Sequence[Asked]) -> list[tuple[Arrays, Arrays, int]]:
        """Answer requests of the same model, each with ``answer`` or ``outputs``, or ``error``; the runs, for whom it
        concerns: inputs, outputs, rows. Where the model is closed, nothing is answered."""
        runs: list[tuple[Arrays, Arrays, int]] = []
        with self._lock:
            if not self.is_open:
                return runs
            batch: list[Asked] = []
            size = 0
            for one in asked:
                if batch and size + one.rows > self.rows:
                    self._answer(batch, size, runs)
                    batch, size = [], 0
                batch.append(one)
                size += one.rows
            if batch:
                self._answer(batch, size, runs)
        return runs

    def close(self) -> None:
        """Free the predictor once the run under way is over; closing twice is harmless."""
        with self._lock:
            self.is_open = False
            self._predictor.close()

    def _answer(self, batch: list[Asked], size: int, runs: list[tuple[Arrays, Arrays, int]]) -> None:
        taken = time.perf_counter_ns()
        try:
            inputs = self._joined(batch)
            began = time.perf_counter_ns()
            outputs = self._check(self._predictor.predict(inputs), size)
            ended = time.perf_counter_ns()
            self._split(batch, outputs)
        except Exception as error:  # a runtime may raise anything; the server must live on
            if len(batch) > 1:
                for one in batch:  # one bad request must not fail its neighbours
                    self._answer([one], one.rows, runs)
                return
            if isinstance(error, OutOfRange):
                batch[0].error = error
                return
            log.warning("inference failed model=%s error=%s", self._name, error)
            known = isinstance(error, LoopworksError)
            batch[0].error = error if known else Failed(f"model {self._name!r} must answer; got error: {error}")
            self._fail(batch[0])
            return
        self._follow((ended - began) / 1e9)
        self._count(batch, size, (taken, began, ended, time.perf_counter_ns()))
        runs.append((inputs, outputs, size))

    def _joined(self, batch: list[Asked]) -> Arrays:
        plain = [one.plain for one in batch if one.plain is not None]
        if len(plain) == len(batch):
            return self._made(plain)
        parts = [one.inputs if one.plain is None else self._made([one.plain]) for one in batch]
        given = [part for part in parts if part is not None]
        return given[0] if len(given) == 1 else {n: np.concatenate([part[n] for part in given]) for n in given[0]}

    def _made(self, plain: list[Plain]) -> Arrays:
        if (joined := self.form.join(plain)) is None:
            raise OutOfRange("inputs", "within the range of their types", "more")
        return joined

    def _split(self, batch: list[Asked], outputs: Arrays) -> None:
        plain = [one.plain for one in batch if one.plain is not None]
        if len(plain) == len(batch) and (bodies := self.form.write(outputs, plain)) is not None:
            for one, body in zip(batch, bodies, strict=True):
                one.answer = body
            return
        at = 0
        for one in batch:
            end = at + one.rows
            one.outputs = outputs if len(batch) == 1 else {name: array[at:end] for name, array in outputs.items()}
            at = end

    def _follow(self, seconds: float) -> None:
        """Judge by the quickest of some runs: a busy machine makes most of them long, and the model no slower."""
        self._runs += 1
        self._quickest_s = min(self._quickest_s, seconds)
        if self._runs < RUNS:
            return
        if self._quickest_s > SLOW_TIMES * LIGHT_S:
            log.info("model=%s left to its threads: runs take %.1f ms", self._name, self._quickest_s * 1000)
            self._rest_until = time.monotonic() + PAUSE_S
        self._runs, self._quickest_s = 0, float("inf")


def rows_within(predict: Callable[[int], object], limit_s: float) -> int:
    """The most rows, of ``SIZES``, whose run takes at most ``limit_s``; 0 where not even one row does."""
    found = 0
    for rows in SIZES:
        best = float("inf")
        for _ in range(3):  # the best of some, as whatever else the machine does only ever adds
            began = time.perf_counter()
            predict(rows)
            best = min(best, time.perf_counter() - began)
        if best > limit_s:
            break
        found = rows
    return found
