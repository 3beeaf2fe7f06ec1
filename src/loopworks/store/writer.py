"""Writing a run from beside the work: MLflow takes seconds to open, and no training waits for it."""

import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loopworks.core.errors import LoopworksError
from loopworks.store.runs import Runs, Status

PRELOAD = ("mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store")
"""Modules that a warm worker may import ahead."""


class Writer:
    """Writes one run from a thread of its own, so that training never waits for MLflow.

    What the thread fails with is raised by ``id`` or ``close``, never lost.
    """

    def __init__(
        self,
        uri: str,
        artifacts: str,
        experiment: str,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> None:
        """Begin the run; ``uri`` and ``artifacts`` as in ``Runs``."""
        self._place = (uri, artifacts)
        self._begin = (experiment, name, dict(params), dict(tags))
        self._work: queue.Queue[tuple[str, tuple[Any, ...]] | None] = queue.Queue()
        self._started = threading.Event()
        self._id = ""
        self._error: LoopworksError | None = None
        self._thread = threading.Thread(target=self._write, name="runs", daemon=True)
        self._thread.start()

    @property
    def id(self) -> str:
        """The run's id; waits until MLflow has given one."""
        self._started.wait()
        if self._error is not None:
            raise self._error
        return self._id

    def metric(self, name: str, step: int, value: float) -> None:
        """One point of a curve."""
        self._work.put(("metric", (name, step, value)))

    def artifact(self, path: Path) -> None:
        """Keep a copy of a file with the run; the file must stay until ``close``."""
        self._work.put(("artifact", (path,)))

    def picture(self, name: str, step: int, png: bytes) -> None:
        """Keep a picture of one step with the run."""
        self._work.put(("picture", (name, step, png)))

    def register(self, name: str, source: str, tags: Mapping[str, str]) -> None:
        """Register the run's model."""
        self._work.put(("register", (name, source, dict(tags))))

    def tag(self, name: str, value: str) -> None:
        """Say something of the run that people look for."""
        self._work.put(("tag", (name, value)))

    def child(
        self,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        points: Sequence[tuple[str, int, float]],
        status: Status,
    ) -> None:
        """A whole run below this one, e.g. a trial of a search: its parameters, curves and how it ended."""
        self._work.put(("child", (name, dict(params), dict(tags), list(points), status)))

    def close(self, status: Status) -> None:
        """Write what is left, end the run, and raise what went wrong."""
        self._work.put(("end", (status,)))
        self._work.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _write(self) -> None:
        try:
            runs = Runs(*self._place)
            self._id = runs.start(*self._begin)
            self._started.set()
            while (entry := self._work.get()) is not None:
                self._one(runs, *entry)
        except LoopworksError as error:
            self._error = error
        finally:
            self._started.set()

    def _one(self, runs: Runs, kind: str, values: tuple[Any, ...]) -> None:
        if kind == "register":
            name, source, tags = values
            runs.register(name, self._id, source, tags)
        elif kind == "child":
            name, params, tags, points, status = values
            run = runs.start(self._begin[0], name, params, {**tags, "mlflow.parentRunId": self._id})
            for point in points:
                runs.metric(run, *point)
            runs.end(run, status)
        else:
            getattr(runs, kind)(self._id, *values)
