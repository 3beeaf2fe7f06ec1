"""What the server has in use: the engine with every deployment of the workspace, kept up to date."""

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from anyio import CapacityLimiter

from loopworks.core.errors import LoopworksError, NotFound
from loopworks.infer.engine import Engine, Served
from loopworks.infer.watch.watcher import Watcher
from loopworks.server.metrics import Metrics
from loopworks.server.upkeep import Upkeep
from loopworks.server.watch_metrics import WatchMetrics

if TYPE_CHECKING:
    from loopworks.workspace import Deployment, Workspace

log = logging.getLogger(__name__)
LOOK_S = 1.0
"""How often to look for what other processes deployed."""
RETRY_S = 30.0


class Serving:
    """The deployments of a workspace, loaded; looks for new revisions while it runs."""

    def __init__(self, space: "Workspace") -> None:
        """Load every deployment. One that cannot be loaded does not hold up the others and is tried again later."""
        self.space = space
        cores = space.settings.threads or os.cpu_count() or 1
        self.watch = Watcher(space.home)
        self.engine = Engine(workers=cores, observe=self.watch)
        self.metrics = Metrics(self.engine)
        self.metrics.registry.register(WatchMetrics(self.watch))
        self.decoding = CapacityLimiter(cores)
        """How many images are decoded at once."""
        self.stopping = threading.Event()
        """Set when the server begins to stop: streams end."""
        self._revisions: dict[str, str] = {}
        self._problems: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self.sync()
        self._watcher = threading.Thread(target=self._watch, name="deployments", daemon=True)
        self._watcher.start()
        self._upkeep = Upkeep(space)

    def close(self) -> None:
        """Stop looking and unload everything."""
        self.stopping.set()
        self._watcher.join()
        self._upkeep.close()
        self.engine.close()
        self.watch.close()

    def sync(self) -> None:
        """Load what was deployed since, unload what is no longer deployed."""
        with self._lock:
            wanted = {d.name: d for d in self.space.deployments()}
            for name in set(self._revisions) - set(wanted):
                del self._revisions[name]
                if name in self.engine.names():
                    self.engine.unload(name)
            self._problems = {name: problem for name, problem in self._problems.items() if name in wanted}
            for name, deployment in wanted.items():
                if self._revisions.get(name) != deployment.ref or self._is_due(name):
                    self._try(deployment)

    def load(self, name: str) -> Served:
        """Load a deployment (again)."""
        with self._lock:
            return self._load(self.space.deployment(name))

    def unload(self, name: str) -> None:
        """Take a deployment out of memory until it is loaded or deployed again."""
        with self._lock:
            self._problems.pop(name, None)
            self.engine.unload(name)

    def model(self, name: str, version: str = "") -> Served:
        """The loaded model; where its deployment could not be loaded, the error says why."""
        try:
            return self.engine.model(name, version)
        except NotFound as error:
            if name not in self.engine.names() and (why := self.problem(name)):
                raise NotFound("loaded model", name, hint=f"it could not be loaded: {why}") from error
            raise

    def problem(self, name: str) -> str:
        """Why the deployment's newest revision could not be loaded; empty where it could."""
        return self._problems.get(name, ("", 0.0))[0]

    def _is_due(self, name: str) -> bool:
        return name in self._problems and time.monotonic() > self._problems[name][1]

    def _try(self, deployment: "Deployment") -> None:
        try:
            self._load(deployment)
        except Exception as error:  # whatever a model file does, the other deployments go on
            known = isinstance(error, LoopworksError)
            log.error("cannot serve deployment=%s: %s", deployment.ref, error, exc_info=None if known else error)

    def _load(self, deployment: "Deployment") -> Served:
        """Load; where that fails, what was loaded before stays in use, and ``sync`` tries again later."""
        self._revisions[deployment.name] = deployment.ref
        try:
            served = self.engine.load(
                deployment.name,
                self.space.bundle(deployment),
                variant=deployment.variant,
                version=str(deployment.revision),
                facts=deployment.to_json(),
            )
        except Exception as error:
            self._problems[deployment.name] = (str(error) or type(error).__name__, time.monotonic() + RETRY_S)
            raise
        self._problems.pop(deployment.name, None)
        return served

    def _watch(self) -> None:
        while not self.stopping.wait(LOOK_S):
            for name, work in (("look for deployments", self.sync), ("keep jobs going", self.space.jobs.wake)):
                try:
                    work()
                except Exception as error:  # the top of a thread: a busy catalog must not end the watch
                    log.warning("cannot %s: %s", name, error)
