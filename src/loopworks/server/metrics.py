"""What Prometheus may ask of the server."""

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from loopworks.infer.engine import Engine
from loopworks.infer.shadows import Shadows
from loopworks.server import triton

_TOGETHER = 4096
"""Requests that wait to be counted, at most."""
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """The server's metrics, in a registry of their own, so that several servers in one process stay apart."""

    def __init__(self, engine: Engine, shadows: Shadows) -> None:
        """Count requests as they are answered; what the engine counts itself is read when somebody asks."""
        self.registry = CollectorRegistry()
        self._requests = _Requests()
        self.registry.register(self._requests)
        self.registry.register(_EngineMetrics(engine))
        self.registry.register(_Compared(shadows))
        for collector in (ProcessCollector, PlatformCollector):
            collector(registry=self.registry)
        self._engine = engine
        self._failures: dict[tuple[str, str, str], int] = {}
        self._counting = threading.Lock()

    def count(self, deployment: str, outcome: str, seconds: float, version: str = "") -> None:
        """One request has been answered or refused; ``version`` is who did, where somebody was found."""
        self._requests.add(deployment, outcome, seconds)
        if outcome != "done":
            with self._counting:
                key = (deployment, version, outcome)
                self._failures[key] = self._failures.get(key, 0) + 1

    def text(self) -> bytes:
        """All of it, as Prometheus reads it: under our names, then under Triton's."""
        return generate_latest(self.registry) + triton.text(self._engine.models(), dict(self._failures)).encode()


class _Requests(Collector):
    """Requests by outcome, and how long they took: noted in a tenth of a microsecond, counted when somebody asks."""

    def __init__(self) -> None:
        self._new: deque[tuple[str, str, float]] = deque()
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._within: dict[str, NDArray[np.int64]] = {}
        """Deployment -> requests by the first bucket that holds their time; the last one is of all longer ones."""
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, deployment: str, outcome: str, seconds: float) -> None:
        """One more."""
        self._new.append((deployment, outcome, seconds))
        if len(self._new) >= _TOGETHER:
            self._count()

    def collect(self) -> Iterator[Metric]:
        """All until now."""
        self._count()
        requests = CounterMetricFamily(
            "loopworks_requests",
            "Inference requests by what became of them: done, or an error's code.",
            labels=("deployment", "outcome"),
        )
        seconds = HistogramMetricFamily(
            "loopworks_request_seconds",
            "Time from a request's arrival to its answer, in seconds.",
            labels=("deployment",),
        )
        bounds = [*map(floatToGoString, _BUCKETS), "+Inf"]
        with self._lock:
            for labels, count in self._outcomes.items():
                requests.add_metric(labels, count)
            for deployment, within in self._within.items():
                up_to = [(bound, float(n)) for bound, n in zip(bounds, within.cumsum(), strict=True)]
                seconds.add_metric((deployment,), up_to, self._seconds[deployment])
        yield from (requests, seconds)

    def _count(self) -> None:
        times: dict[str, list[float]] = defaultdict(list)
        with self._lock:
            while self._new:
                deployment, outcome, seconds = self._new.popleft()
                self._outcomes[deployment, outcome] += 1
                times[deployment].append(seconds)
            for deployment, took in times.items():
                found = np.bincount(np.searchsorted(_BUCKETS, took), minlength=len(_BUCKETS) + 1)
                self._within[deployment] = self._within.get(deployment, 0) + found
                self._seconds[deployment] = self._seconds.get(deployment, 0.0) + sum(took)


class _EngineMetrics(Collector):
    """The engine's own statistics; they cost the requests nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Every loaded model's figures since it was loaded."""
        names = ("deployment", "version")
        waiting = GaugeMetricFamily("loopworks_waiting", "Requests in the queue.", labels=names)
        rows = CounterMetricFamily("loopworks_rows", "Rows answered.", labels=names)
        runs = CounterMetricFamily("loopworks_runs", "Runs of the model; rows / runs is the batch size.", labels=names)
        queue = CounterMetricFamily("loopworks_queue_seconds", "Time that requests waited.", labels=names)
        compute = CounterMetricFamily("loopworks_compute_seconds", "Time that the model ran.", labels=names)
        for served in self._engine.models():
            label, found = (served.name, served.version), served.statistics
            waiting.add_metric(label, served.waiting)
            rows.add_metric(label, found.inferences)
            runs.add_metric(label, found.executions)
            queue.add_metric(label, found.queue_ns / 1e9)
            compute.add_metric(label, sum(list(found.batch_ns.values())) / 1e9)
        yield from (waiting, rows, runs, queue, compute)


class _Compared(Collector):
    """How canaries and shadows agree with the live revision."""

    def __init__(self, shadows: Shadows) -> None:
        self._shadows = shadows

    def collect(self) -> Iterator[Metric]:
        """Counts of every pair since the server started."""
        labels = ("deployment", "version", "live", "outcome")
        rows = CounterMetricFamily(
            "loopworks_compared_rows",
            "Rows of canaries and shadows compared with the live revision: agreed, differed, dropped or failed.",
            labels=labels,
        )
        for pair in self._shadows.counts():
            outcomes = {"agreed": pair.agreed, "differed": max(0.0, pair.rows - pair.agreed)}
            for outcome, count in {**outcomes, "dropped": pair.dropped, "failed": pair.failed}.items():
                rows.add_metric((pair.name, pair.other, pair.live, outcome), count)
        yield rows
