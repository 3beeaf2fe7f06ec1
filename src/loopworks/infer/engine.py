"""The engine: many models, each with a queue and worker threads that take everything that waits as one batch.

Greedy batching: an idle worker takes what is queued, up to ``max_batch``, and never waits for more, so a lone request
pays nothing and a burst is answered in few runs. Runtimes let go of the GIL, so worker threads use all cores.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays
from loopworks.core.errors import Busy, NotFound
from loopworks.core.limits import Limits
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
        self._beside: dict[tuple[str, str], Served] = {}
        """Other versions of the models, which answer only those who name them."""
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
        beside: bool = False,
    ) -> Served:
        """Load a model, try it once, and only then let it answer under ``name``.

        The one before answers what it has queued and goes; when this returns, it is gone. Where loading fails, it
        stays in use. ``beside``: it answers only those who name its version, until ``switch`` puts it in front; the
        others stay.

        Raises:
            NotFound: no such variant or runtime.
            Invalid: the model does not load, or does not give what its bundle says.
            Busy: the engine is closed.
        """
        with self._loading:
            return self._load(name, _Parked(bundle, variant, version, dict(facts or {}), Statistics()), beside)

    def _load(self, name: str, wanted: _Parked, beside: bool = False) -> Served:
        limits = self._limits(name)
        if not limits.workers:
            limits = replace(limits, workers=self._workers)
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
            self._make_room(fresh, beside)
        except Busy:
            fresh.close()
            raise
        with self._lock:
            is_open, key = self._is_open, (name, wanted.version)
            old = self._beside.get(key) if beside else self._models.get(name)
            if is_open and beside:
                self._beside[key] = fresh
            elif is_open:
                self._models[name] = fresh
                self._parked.pop(name, None)
        if not is_open:
            fresh.close()
            raise Busy("the engine must be open; it was closed", "start it again")
        if old is not None:
            old.close()
        log.info("loaded model=%s version=%s variant=%s", name, wanted.version, fresh.variant.name)
        return fresh

    def _make_room(self, fresh: Served, beside: bool) -> None:
        """Park models that nobody waits for, unused longest first, until ``fresh`` fits in beside the others.

        What is loaded beside a model is never parked, but counts.
        """
        if not self._memory_bytes:
            return
        while True:
            with self._lock:
                others = [one for one in self._models.values() if beside or one.name != fresh.name]
                held = sum(one.memory_bytes for one in (*others, *self._beside.values()))
                if held + fresh.memory_bytes <= self._memory_bytes:
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

    def switch(self, name: str, version: str) -> Served:
        """Let a version that is loaded beside answer under ``name``; the one before stays loaded beside it.

        Nothing is loaded and no request is lost: who found the one before is still answered by it.
        Raises: NotFound: no such version is loaded.
        """
        with self._lock:
            old = self._models.get(name)
            if old is not None and old.version == version:
                return old
            found = self._beside.pop((name, version), None)
            if found is not None:
                self._models[name] = found
                self._parked.pop(name, None)
                if old is not None:
                    self._beside[name, old.version] = old
        if found is None:
            raise NotFound(f"version of model {name!r}", version, self.versions(name))
        log.info("switched model=%s version=%s", name, version)
        return found

    def unload(self, name: str, version: str = "") -> None:
        """Take a model away, or one version beside it, after it has answered what waits; ``NotFound`` without one."""
        with self._lock:
            parked = None if version else self._parked.pop(name, None)
            if version:
                gone = [self._beside.pop((name, version), None)]
            else:
                keys = [key for key in self._beside if key[0] == name]
                gone = [self._models.pop(name, None), *(self._beside.pop(key) for key in keys)]
        if not any(gone) and parked is None:
            raise NotFound("model", f"{name} version {version}" if version else name, self.names())
        for old in filter(None, gone):
            old.close()
            log.info("unloaded model=%s version=%s", name, old.version)

    def names(self) -> list[str]:
        """Names of the models that answer, sorted: those in memory, and those that come back when asked."""
        with self._lock:
            return sorted([*self._models, *self._parked])

    def is_parked(self, name: str) -> bool:
        """Whether asking the model means waiting until it is loaded again."""
        return name in self._parked

    def models(self) -> list[Served]:
        """The loaded models, by name; what is loaded beside a model stands behind it."""
        with self._lock:
            beside = sorted(self._beside.items())
            return [
                found
                for name in sorted({*self._models, *(key[0] for key, _ in beside)})
                for found in (self._models.get(name), *(one for key, one in beside if key[0] == name))
                if found is not None
            ]

    def versions(self, name: str) -> list[str]:
        """Versions of a model that can be asked, the one that answers first."""
        with self._lock:
            front = self._models.get(name) or self._parked.get(name)
            beside = sorted(key[1] for key in self._beside if key[0] == name)
        return [*([front.version] if front else []), *beside]

    def front(self, name: str) -> Served | None:
        """The version that answers under a name, where it is in memory; it is not loaded again."""
        return self._models.get(name)

    def beside(self, name: str) -> list[Served]:
        """The versions of a model that answer only those who name them."""
        with self._lock:
            return [found for key, found in sorted(self._beside.items()) if key[0] == name]

    def model(self, name: str, version: str = "") -> Served:
        """The model called ``name``, loaded again where it had made room for others.

        Raises:
            NotFound: the name or its version is not loaded.
            Busy: there is no room for it beside the models in use.
        """
        if version and (named := self._beside.get((name, version))) is not None:
            return named
        found = self._models.get(name) or self._woken(name)
        if version and version != found.version:
            raise NotFound(f"version of model {name!r}", version, self.versions(name))
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
            models = [*self._models.values(), *self._beside.values()]
            self._models, self._beside = {}, {}
            self._parked.clear()
        for served in models:
            served.close()
