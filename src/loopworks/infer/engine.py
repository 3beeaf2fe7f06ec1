"""The engine: many models, each with a queue and worker threads that take everything that waits as one batch.

Greedy batching: an idle worker takes what is queued, up to ``max_batch``, and never waits for more, so a lone request
pays nothing and a burst is answered in few runs. Runtimes let go of the GIL, so worker threads use all cores.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays
from loopworks.core.errors import Busy, NotFound
from loopworks.core.settings import Limits
from loopworks.infer.served import Answer, Observer, Replaced, Served
from loopworks.infer.statistics import Statistics

__all__ = ["Answer", "Engine", "Observer", "Replaced", "Served"]

log = logging.getLogger(__name__)
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class _Parked:
    """A model that made room for another: what it takes to have it again."""

    bundle: Bundle
    variant: str
    version: str
    facts: Mapping[str, Any]
    statistics: Statistics


class Engine:
    """All loaded models by name. Loading a name again swaps it without losing a request."""

    def __init__(
        self,
        *,
        workers: int = 1,
        max_batch: int = 32,
        max_queue: int = 1024,
        limits: Callable[[str], Limits] | None = None,
        memory_bytes: int = 0,
        observe: Observer | None = None,
    ) -> None:
        """Load models by their limits.

        Args:
            workers: threads per model, where its limits do not say.
            max_batch, max_queue: of every model, where ``limits`` is not given.
            limits: what the model of a name may take.
            memory_bytes: what all may take together, 0 for any amount. Models that nobody waits for make room, those
                unused longest first; whoever asks such a model waits until it is loaded again.
            observe: is shown every run.
        """
        self.observer = observe
        given = Limits(workers=max(1, workers), max_batch=max_batch, max_queue=max_queue)
        self._limits = limits or (lambda name: given)
        self._workers = max(1, workers)
        self._memory_bytes = memory_bytes
        self._models: dict[str, Served] = {}
        self._parked: dict[str, _Parked] = {}
        self._lock = threading.Lock()
        self._loading = threading.RLock()
        self._is_open = True

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
        """Load a model, try it once, and only then let it answer under ``name``.

        The one before answers what it has queued and goes; when this returns, it is gone. Where loading fails, it
        stays in use.

        Raises:
            NotFound: no such variant or runtime.
            Invalid: the model does not load, or does not give what its bundle says.
            Busy: the engine is closed.
        """
        with self._loading:
            return self._load(name, _Parked(bundle, variant, version, dict(facts or {}), Statistics()))

    def _load(self, name: str, wanted: _Parked) -> Served:
        limits = self._limits(name)
        if not limits.workers:
            limits = limits.model_copy(update={"workers": self._workers})
        fresh = Served(
            name,
            wanted.bundle,
            variant=wanted.variant,
            version=wanted.version,
            facts=wanted.facts,
            limits=limits,
            observer=self.observer,
            statistics=wanted.statistics,
        )
        try:
            self._make_room(fresh)
        except Busy:
            fresh.close()
            raise
        with self._lock:
            is_open, old = self._is_open, self._models.get(name)
            if is_open:
                self._models[name] = fresh
                self._parked.pop(name, None)
        if not is_open:
            fresh.close()
            raise Busy("the engine must be open; it was closed", "start it again")
        if old is not None:
            old.close()
        log.info("loaded model=%s version=%s variant=%s", name, wanted.version, fresh.variant.name)
        return fresh

    def _make_room(self, fresh: Served) -> None:
        """Park models that nobody waits for, unused longest first, until ``fresh`` fits in beside the others."""
        if not self._memory_bytes:
            return
        while True:
            with self._lock:
                others = [one for one in self._models.values() if one.name != fresh.name]
                if sum(one.memory_bytes for one in others) + fresh.memory_bytes <= self._memory_bytes:
                    return
                if not others:
                    log.warning("model=%s alone takes more than max_model_mb", fresh.name)
                    return
                idle = sorted((one for one in others if one.is_idle), key=lambda one: one.used)
                if not idle:
                    what = f"model {fresh.name!r} must find {fresh.memory_bytes >> 20} MB"
                    limit = f"{self._memory_bytes >> 20} MB for all models"
                    raise Busy(f"{what} beside those in use; got {limit}", "raise max_model_mb, or try again later")
                gone = self._models.pop(idle[0].name)
                self._parked[gone.name] = _Parked(
                    gone.bundle, gone.variant.name, gone.version, gone.facts, gone.statistics
                )
            gone.close()
            log.info("parked model=%s version=%s to make room for model=%s", gone.name, gone.version, fresh.name)

    def unload(self, name: str) -> None:
        """Take a model away after it has answered what waits; ``NotFound`` where there is none."""
        with self._lock:
            old, parked = self._models.pop(name, None), self._parked.pop(name, None)
        if old is None and parked is None:
            raise NotFound("model", name, self.names())
        if old is not None:
            old.close()
        log.info("unloaded model=%s", name)

    def names(self) -> list[str]:
        """Names of the models that answer, sorted: those in memory, and those that come back when asked."""
        with self._lock:
            return sorted([*self._models, *self._parked])

    def is_parked(self, name: str) -> bool:
        """Whether asking the model means waiting until it is loaded again."""
        return name in self._parked

    def models(self) -> list[Served]:
        """The loaded models, by name."""
        with self._lock:
            return [self._models[name] for name in sorted(self._models)]

    def model(self, name: str, version: str = "") -> Served:
        """The model called ``name``, loaded again where it had made room for others.

        Raises:
            NotFound: the name or its version is not loaded.
            Busy: there is no room for it beside the models in use.
        """
        found = self._models.get(name) or self._woken(name)
        if version and version != found.version:
            raise NotFound(f"version of model {name!r}", version, [found.version])
        return found

    def _woken(self, name: str) -> Served:
        with self._loading:
            with self._lock:
                found, parked = self._models.get(name), self._parked.get(name)
            if found is not None:
                return found
            if parked is None:
                raise NotFound("model", name, self.names())
            return self._load(name, parked)

    def submit(self, name: str, inputs: Arrays, *, version: str = "", timeout_s: float = TIMEOUT_S) -> "Future[Answer]":
        """Queue a request for whatever answers under ``name`` now; the answer says who that was.

        Cancelling the future takes the request out of the queue. It fails with ``TimedOut`` when no worker was free
        within ``timeout_s``, and with ``Failed`` when the model could not answer it.

        Raises: NotFound, Invalid, Busy: before anything is queued.
        """
        while True:
            served = self.model(name, version)
            try:
                return served.submit(inputs, timeout_s)
            except Replaced:
                # Its successor was in place before it closed, so the next look finds another, or none.
                continue

    def close(self) -> None:
        """Answer what waits, then unload everything; closing twice is harmless."""
        with self._lock:
            self._is_open = False
            models, self._models = list(self._models.values()), {}
            self._parked.clear()
        for served in models:
            served.close()
