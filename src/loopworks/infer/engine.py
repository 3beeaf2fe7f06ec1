"""The engine: many models, each with a queue and worker threads that take everything that waits as one batch.

Greedy batching: an idle worker takes what is queued, up to ``max_batch``, and never waits for more, so a lone request
pays nothing and a burst is answered in few runs. Runtimes let go of the GIL, so worker threads use all cores.
"""

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from loopworks.core.bundle import Bundle
from loopworks.core.contracts import Arrays
from loopworks.core.errors import Busy, NotFound
from loopworks.infer.served import Answer, Observer, Replaced, Served

__all__ = ["Answer", "Engine", "Observer", "Replaced", "Served"]

log = logging.getLogger(__name__)
TIMEOUT_S = 30.0


class Engine:
    """All loaded models by name. Loading a name again swaps it without losing a request."""

    def __init__(
        self, *, workers: int = 1, max_batch: int = 32, max_queue: int = 1024, observe: Observer | None = None
    ) -> None:
        """``workers`` threads per model, batches of at most ``max_batch``, at most ``max_queue`` waiting per model.

        ``observe`` is shown every run.
        """
        self.observer = observe
        self._workers = max(1, workers)
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._models: dict[str, Served] = {}
        self._lock = threading.Lock()
        self._loading = threading.Lock()
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
            fresh = Served(
                name,
                bundle,
                variant=variant,
                version=version,
                facts=facts,
                workers=self._workers,
                max_batch=self._max_batch,
                max_queue=self._max_queue,
                observer=self.observer,
            )
            with self._lock:
                is_open, old = self._is_open, self._models.get(name)
                if is_open:
                    self._models[name] = fresh
        if not is_open:
            fresh.close()
            raise Busy("the engine must be open; it was closed", "start it again")
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
        log.info("unloaded model=%s version=%s", name, old.version)

    def names(self) -> list[str]:
        """Names of the loaded models, sorted."""
        with self._lock:
            return sorted(self._models)

    def models(self) -> list[Served]:
        """The loaded models, by name."""
        with self._lock:
            return [self._models[name] for name in sorted(self._models)]

    def model(self, name: str, version: str = "") -> Served:
        """The model called ``name``; ``NotFound`` where the name or its version is not loaded."""
        with self._lock:
            found = self._models.get(name)
        if found is None:
            raise NotFound("model", name, self.names())
        if version and version != found.version:
            raise NotFound(f"version of model {name!r}", version, [found.version])
        return found

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
        for served in models:
            served.close()
