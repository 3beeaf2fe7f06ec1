"""What Prometheus may ask of the server."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from loopworks.infer.engine import Engine

_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """The server's metrics, in a registry of their own, so that several servers in one process stay apart."""

    def __init__(self, engine: Engine) -> None:
        """Count requests as they are answered; what the engine counts itself is read when somebody asks."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "loopworks_requests",
            "Inference requests by what became of them: done, or an error's code.",
            ("deployment", "outcome"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "loopworks_request_seconds",
            "Time from a request's arrival to its answer, in seconds.",
            ("deployment",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_EngineMetrics(engine))
        self._known: dict[tuple[str, str], tuple[Counter, Histogram]] = {}

    def count(self, deployment: str, outcome: str, seconds: float) -> None:
        """One request has been answered or refused."""
        known = self._known.get((deployment, outcome))
        if known is None:  # looking children up by their labels takes longer than counting
            known = self.requests.labels(deployment, outcome), self.seconds.labels(deployment)
            self._known[deployment, outcome] = known
        known[0].inc()
        known[1].observe(seconds)


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
