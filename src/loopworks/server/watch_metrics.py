"""What Prometheus may ask of what is watched."""

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from loopworks.infer.watch.watcher import Watcher


class WatchMetrics(Collector):
    """The watcher's counts since the server began; they cost the requests nothing."""

    def __init__(self, watcher: Watcher) -> None:
        """Read from ``watcher`` whenever somebody asks."""
        self._watcher = watcher

    def collect(self) -> Iterator[Metric]:
        """All counts."""
        found = self._watcher.figures
        captured = CounterMetricFamily(
            "loopworks_captured", "Inputs that a rule chose and that were kept.", labels=("deployment", "rule")
        )
        failed = CounterMetricFamily(
            "loopworks_capture_failed",
            "Times that capture, log or drift went wrong (a full disk, a locked catalog), by an error's code.",
            labels=("deployment", "code"),
        )
        dropped = CounterMetricFamily(
            "loopworks_watch_dropped", "Rows that were not looked at, because too many waited.", labels=("deployment",)
        )
        alarms = CounterMetricFamily("loopworks_drift_alarms", "Alarms of drift.", labels=("deployment",))
        for key, count in list(found.captured.items()):
            captured.add_metric(key, count)
        for key, count in list(found.failed.items()):
            failed.add_metric(key, count)
        for name, count in list(found.dropped.items()):
            dropped.add_metric((name,), count)
        for name, count in list(found.alarms.items()):
            alarms.add_metric((name,), count)
        yield from (captured, failed, dropped, alarms)
