"""What the server has in use: the engine with every deployment of the workspace, kept up to date."""

import logging
import os
import threading
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from loopworks.core.errors import LoopworksError
from loopworks.infer.engine import Engine, Served

if TYPE_CHECKING:
    from loopworks.workspace import Deployment, Workspace

log = logging.getLogger(__name__)
LOOK_S = 1.0


class Metrics:
    """The server's Prometheus metrics, in a registry of their own."""

    def __init__(self) -> None:
        """Make them."""
        self.registry = CollectorRegistry()
        names = ("deployment", "outcome")
        self.requests = Counter("loopworks_requests", "Answered requests.", names, registry=self.registry)
        self.seconds = Histogram(
            "loopworks_request_seconds",
            "Time from the request to its answer.",
            ("deployment",),
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5),
            registry=self.registry,
        )
        self.waiting = Gauge("loopworks_waiting", "Requests in the queue.", ("deployment",), registry=self.registry)


class Serving:
    """The deployments of a workspace, loaded; looks for new revisions while it runs."""

    def __init__(self, space: "Workspace") -> None:
        """Load every deployment; one that cannot be loaded is logged and asked for again later."""
        self.space = space
        self.engine = Engine(workers=space.settings.threads or os.cpu_count() or 1)
        self.metrics = Metrics()
        self._revisions: dict[str, str] = {}
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self.sync()
        self._watcher = threading.Thread(target=self._watch, name="deployments", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Stop looking and unload everything."""
        self._ended.set()
        self._watcher.join()
        self.engine.close()

    def sync(self) -> None:
        """Load what was deployed since, unload what is no longer deployed."""
        with self._lock:
            wanted = {d.name: d for d in self.space.deployments()}
            for name in set(self._revisions) - set(wanted):
                del self._revisions[name]
                if name in self.engine.names():
                    self.engine.unload(name)
            for name, deployment in wanted.items():
                if self._revisions.get(name) != deployment.ref:
                    self._try(deployment)

    def load(self, name: str) -> Served:
        """Load a deployment (again)."""
        with self._lock:
            return self._load(self.space.deployment(name))

    def unload(self, name: str) -> None:
        """Take a deployment out of memory until it is loaded or deployed again."""
        with self._lock:
            self.engine.unload(name)

    def _try(self, deployment: "Deployment") -> None:
        try:
            self._load(deployment)
        except LoopworksError as error:
            self._revisions[deployment.name] = deployment.ref
            log.error("cannot serve deployment=%s: %s", deployment.ref, error)

    def _load(self, deployment: "Deployment") -> Served:
        bundle = self.space.bundle(deployment)
        facts = deployment.to_json()
        served = self.engine.load(
            deployment.name, bundle, variant=deployment.variant, version=str(deployment.revision), facts=facts
        )
        self._revisions[deployment.name] = deployment.ref
        return served

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_S):
            try:
                self.sync()
            except LoopworksError as error:
                log.warning("cannot look for deployments: %s", error)
