"""The pipelines that this server runs: those that are wanted, on its own engine; and their metrics."""

import logging
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from loopworks.core.errors import Busy, NotFound

if TYPE_CHECKING:
    from loopworks.infer.live.runner import Runner
    from loopworks.infer.live.stage import Kept
    from loopworks.server.serving import Serving

log = logging.getLogger(__name__)
LOOK_S = 0.5
"""How often to look for what is wanted, and to write down how it goes."""


class Pipelines:
    """Runs what is wanted and stops what is not, until it is closed."""

    def __init__(self, serving: "Serving") -> None:
        """Begin to look."""
        self._serving = serving
        self._live = serving.space.live
        self._running: dict[str, tuple[Runner, int]] = {}
        self._lock = threading.Lock()
        """Of the table of those that run; held for moments only."""
        self._turn = threading.Lock()
        """Of whoever starts and stops them, which takes as long as sinks and cameras let it."""
        self._ended = threading.Event()
        serving.metrics.registry.register(_Metrics(self))
        self._watcher = threading.Thread(target=self._watch, name="pipelines", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Stop all of them; they are wanted still, so the next server starts them again."""
        self._ended.set()
        self._watcher.join()
        with self._turn, ThreadPoolExecutor(max(1, len(self._running))) as pool:
            list(pool.map(self._end, list(self._running)))

    def runner(self, name: str) -> "Runner":
        """A pipeline that runs here; ``NotFound`` where it does not."""
        self._live.kept(name)
        with self._lock:
            found = self._running.get(name)
        if found is None:
            raise NotFound("running pipeline", name, sorted(self._running), hint=f"loopworks live start {name}")
        return found[0]

    def runners(self) -> "list[Runner]":
        """All that run here."""
        with self._lock:
            return [one for one, _ in self._running.values()]

    def sync(self) -> None:
        """Start and stop what has changed, and write down how it goes."""
        with self._turn:
            kept = {name: self._kept(name) for name in self._live.names()}
            for name, (runner, _) in list(self._running.items()):
                one = kept.get(name)
                if one is None or not one.is_wanted or one.pipeline != runner.pipeline or runner.is_ended:
                    self._end(name)
                else:
                    self._live.tell(runner)
            for name, one in kept.items():
                if one is not None and one.is_wanted and name not in self._running:
                    # Read anew: a pipeline that has just ended by itself is wanted no longer.
                    again = self._kept(name)
                    if again is not None and again.is_wanted:
                        self._begin(name)

    def _kept(self, name: str) -> "Kept | None":
        try:
            return self._live.kept(name)
        except Exception as error:  # a damaged or vanished folder must not hold up the others
            log.warning("cannot read pipeline=%s: %s", name, error)
            return None

    def _begin(self, name: str) -> None:
        try:
            claim = self._live.claim(name)
        except Busy:
            return  # another server of this workspace runs it
        try:
            begun = self._live.begin(name, self._serving.chains.pick)
        except Exception:
            os.close(claim)
            raise
        with self._lock:
            self._running[name] = begun, claim
        log.info("pipeline started name=%s", name)

    def _end(self, name: str) -> None:
        runner, claim = self._running[name]
        runner.stop()
        self._live.tell(runner)
        with self._lock:
            del self._running[name]
        os.close(claim)

    def _watch(self) -> None:
        while not self._ended.is_set():
            try:
                self.sync()
            except Exception as error:  # the top of a thread: a full disk must not end the watch
                log.warning("cannot look after pipelines: %s", error)
            self._ended.wait(LOOK_S)


class _Metrics(Collector):
    """What pipelines count, read when somebody asks."""

    def __init__(self, pipelines: Pipelines) -> None:
        self._pipelines = pipelines

    def collect(self) -> Iterator[Metric]:
        """Every running pipeline's figures since it was started."""
        labels = ("pipeline",)
        counters = {
            "frames_in": CounterMetricFamily(
                "loopworks_live_frames_in", "Frames taken from the source.", labels=labels
            ),
            "frames_out": CounterMetricFamily("loopworks_live_frames_out", "Frames answered.", labels=labels),
            "frames_dropped": CounterMetricFamily(
                "loopworks_live_frames_dropped", "Frames that a newer one took the place of.", labels=labels
            ),
            "frames_failed": CounterMetricFamily(
                "loopworks_live_frames_failed", "Frames that could not be answered.", labels=labels
            ),
            "reconnects": CounterMetricFamily(
                "loopworks_live_reconnects", "Attempts to reach a source again.", labels=labels
            ),
        }
        gauges = {
            "fps": GaugeMetricFamily("loopworks_live_fps", "Frames answered a second, of late.", labels=labels),
            "lag_s": GaugeMetricFamily(
                "loopworks_live_lag_seconds", "From a frame's arrival to its answer.", labels=labels
            ),
            "viewers": GaugeMetricFamily("loopworks_live_viewers", "Clients of the preview.", labels=labels),
        }
        sinks = CounterMetricFamily(
            "loopworks_live_sink_results",
            "Results by sink and what became of them.",
            labels=("pipeline", "sink", "outcome"),
        )
        for runner in self._pipelines.runners():
            told = runner.status()
            for name, counter in counters.items():
                counter.add_metric([runner.pipeline.name], told[name])
            for name, gauge in gauges.items():
                gauge.add_metric([runner.pipeline.name], told[name])
            for place, sink in enumerate(told["sinks"]):
                for outcome in ("sent", "failed", "dropped"):
                    sinks.add_metric([runner.pipeline.name, f"{place}-{sink['kind']}", outcome], sink[outcome])
        yield from (*counters.values(), *gauges.values(), sinks)
