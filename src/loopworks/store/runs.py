"""Runs and registered models in MLflow: the only file that speaks to it.

A team's ``mlflow ui`` or server shows everything that is written here. MLflow takes seconds to import, so no request
path may touch this module's functions; jobs do, from a thread of their own (see ``Writer``).
"""

import contextlib
import json
import logging
import queue
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loopworks.core.errors import LoopworksError, Missing, Unreachable
from loopworks.core.settings import quiet_libraries

PRELOAD = ("mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store")
"""Modules that a warm worker may import ahead."""
MAX_TEXT = 5_000  # MLflow refuses longer parameter values


class Runs:
    """The runs and models behind one tracking URI."""

    def __init__(self, uri: str, artifacts: Path | None = None) -> None:
        """Nothing is imported or opened yet.

        Args:
            uri: an MLflow tracking URI, e.g. ``sqlite:///runs/mlflow.db``, ``postgresql://...`` or ``http://...``.
            artifacts: folder for artifacts of a store that has no place of its own (a bare database).
        """
        self.uri = uri
        self._artifacts = artifacts
        self._opened: Any = None

    def start(self, experiment: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Begin a run and return its id; the experiment is made where it does not exist."""
        with self._asked() as client:
            found = client.get_experiment_by_name(experiment)
            key = found.experiment_id if found else self._new_experiment(client, experiment)
            run = client.create_run(key, run_name=name, tags=dict(tags))
            id: str = run.info.run_id
            for param, value in params.items():
                text = value if isinstance(value, str) else json.dumps(value, default=str)
                client.log_param(id, param, text[:MAX_TEXT])
        return id

    def metric(self, run: str, name: str, step: int, value: float) -> None:
        """One point of a curve."""
        with self._asked() as client:
            client.log_metric(run, name, value, step=step)

    def curve(self, run: str, name: str) -> list[tuple[int, float]]:
        """All points of a curve, ``(step, value)``, in order."""
        with self._asked() as client:
            return [(point.step, point.value) for point in client.get_metric_history(run, name)]

    def artifact(self, run: str, path: Path) -> None:
        """Keep a copy of a file with the run."""
        with self._asked() as client:
            client.log_artifact(run, str(path))

    def register(self, name: str, run: str, source: str, tags: Mapping[str, str]) -> int:
        """Register a model version and return MLflow's number for it."""
        with self._asked() as client:
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name)
            return int(client.create_model_version(name, source=source, run_id=run, tags=dict(tags)).version)

    def end(self, run: str, status: str) -> None:
        """Close a run: FINISHED, FAILED or KILLED."""
        with self._asked() as client:
            client.set_terminated(run, status)

    def _new_experiment(self, client: Any, name: str) -> str:
        place = None if self._artifacts is None else (self._artifacts / name).absolute().as_uri()
        id: str = client.create_experiment(name, artifact_location=place)
        return id

    @contextlib.contextmanager
    def _asked(self) -> Iterator[Any]:
        quiet_libraries()
        try:
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise Missing("mlflow-skinny", "train", "runs are kept in MLflow") from None
        from sqlalchemy.exc import SQLAlchemyError

        if self._opened is None:
            logging.getLogger("mlflow").setLevel(logging.WARNING)
            logging.getLogger("alembic").setLevel(logging.WARNING)
            self._opened = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        try:
            yield self._opened
        except (MlflowException, SQLAlchemyError, OSError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise Unreachable(
                f"the MLflow store must answer; got {first}", "see the setting tracking in loopworks.toml"
            ) from error


class Writer:
    """Writes one run from a thread of its own, so that training never waits for MLflow.

    What the thread fails with is raised by ``id`` or ``close``, never lost.
    """

    def __init__(
        self, runs: Runs, experiment: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        """Begin the run."""
        self._runs = runs
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

    def register(self, name: str, source: str, tags: Mapping[str, str]) -> None:
        """Register the run's model."""
        self._work.put(("register", (name, source, dict(tags))))

    def close(self, status: str) -> None:
        """Write what is left, end the run, and raise what went wrong."""
        self._work.put(("end", (status,)))
        self._work.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _write(self) -> None:
        try:
            self._id = self._runs.start(*self._begin)
            self._started.set()
            while (entry := self._work.get()) is not None:
                self._one(*entry)
        except LoopworksError as error:
            self._error = error
        finally:
            self._started.set()

    def _one(self, kind: str, values: tuple[Any, ...]) -> None:
        if kind == "register":
            name, source, tags = values
            self._runs.register(name, self._id, source, tags)
        else:
            getattr(self._runs, kind)(self._id, *values)
