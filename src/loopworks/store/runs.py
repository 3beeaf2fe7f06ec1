"""Runs and registered models in MLflow, so that a team's ``mlflow ui`` shows them. The only file that imports mlflow.

The import takes 2 s and the first use of a new database 3 s more (its migrations; 0.1 s afterwards): use it in a job's
process, never in a request.
"""

import contextlib
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from loopworks.core.errors import Conflict, Failed, Invalid, LoopworksError, NotFound, Unreachable
from loopworks.core.settings import quiet_libraries

Status = Literal["done", "failed", "cancelled"]
FLUSH_COUNT, FLUSH_EVERY_S = 200, 1.0
_STATUS = {"done": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
_PARAM_CHARACTERS = 6000
"""Longest value of a parameter that MLflow stores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """One numbered version of a registered model."""

    name: str
    number: int
    run: str
    source: str
    """Where its bundle lies."""
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "name": self.name,
            "number": self.number,
            "run": self.run,
            "source": self.source,
            "tags": dict(self.tags),
            "aliases": list(self.aliases),
        }


def place(folder: Path, uri: str) -> tuple[str, str]:
    """The tracking URI of a workspace and where files of runs lie: as its settings say, or in its own folder."""
    return (uri, "") if uri else (f"sqlite:///{folder / 'mlflow.db'}", (folder / "files").as_uri())


class Runs:
    """Runs, their curves and files, and the registry of models, at one tracking URI."""

    def __init__(self, uri: str, artifacts: str = "") -> None:
        """Connect; a new database is set up here.

        Args:
            uri: ``sqlite:///FILE``, ``postgresql://...``, or ``http://...`` of an MLflow server.
            artifacts: URI under which the files of runs lie, e.g. ``file:///workspace/runs/files``; empty leaves the
                choice to MLflow, as for a server.
        Raises: Invalid: not such a URI. Unreachable: nothing answers there.
        """
        quiet_libraries()
        self._artifacts = artifacts.rstrip("/")
        self._waiting: dict[str, list[tuple[str, int, float, int]]] = {}
        self._flushed = time.monotonic()
        if uri.startswith("postgresql://"):
            # MLflow hands the URL to SQLAlchemy, which would look for psycopg2.
            uri = "postgresql+psycopg://" + uri.removeprefix("postgresql://")
        if not uri.startswith(("sqlite:///", "postgresql", "http://", "https://")):
            raise Invalid("tracking", "a URI that starts with sqlite:///, postgresql:// or http(s)://", uri)
        with _guarded(uri):
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            self._client.search_experiments(max_results=1)

    def start(
        self, experiment: str, name: str, params: Mapping[str, Any] | None = None, tags: Mapping[str, str] | None = None
    ) -> str:
        """Begin a run and give its id; the experiment is made if it does not exist."""
        from mlflow.entities import Param

        with _guarded("experiment"):
            found = self._client.get_experiment_by_name(experiment)
            key = found.experiment_id if found else self._experiment(experiment)
            run = str(self._client.create_run(key, run_name=name, tags=dict(tags or {})).info.run_id)
            values = [Param(key, _text(value)) for key, value in (params or {}).items()]
            for start in range(0, len(values), 100):
                self._client.log_batch(run, params=values[start : start + 100])
        return run

    def metric(self, run: str, name: str, step: int, value: float) -> None:
        """Keep a point of a curve; points are written together, about once a second and at the run's end."""
        self._waiting.setdefault(run, []).append((name, step, value, int(time.time() * 1000)))
        waiting = sum(len(points) for points in self._waiting.values())
        if waiting >= FLUSH_COUNT or time.monotonic() - self._flushed >= FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write the points that wait."""
        from mlflow.entities import Metric

        waiting, self._waiting = self._waiting, {}
        self._flushed = time.monotonic()
        with _guarded("run"):
            for run, points in waiting.items():
                metrics = [Metric(name, value, at_ms, step) for name, step, value, at_ms in points]
                for start in range(0, len(metrics), 1000):
                    self._client.log_batch(run, metrics=metrics[start : start + 1000])

    def curve(self, run: str, name: str) -> list[tuple[int, float]]:
        """Step and value of a metric's points, in order; empty where there are none."""
        self.flush()
        with _guarded(f"run {run}"):
            points = self._client.get_metric_history(run, name)
        return sorted((int(point.step), float(point.value)) for point in points)

    def end(self, run: str, status: Status = "done") -> None:
        """Close a run."""
        if status not in _STATUS:
            raise Invalid("status of a run", "done, failed or cancelled", status)
        self.flush()
        with _guarded(f"run {run}"):
            self._client.set_terminated(run, _STATUS[status])

    def tag(self, run: str, name: str, value: str) -> None:
        """Set a tag of a run; at most 5,000 characters of it are kept."""
        with _guarded(f"run {run}"):
            self._client.set_tag(run, name, value[:5000])

    def children(self, run: str) -> list[str]:
        """Ids of the runs below a run, e.g. the trials of a search, in the order that they were made."""
        with _guarded(f"run {run}"):
            experiment = self._client.get_run(run).info.experiment_id
            found = self._client.search_runs(
                [experiment], f"tags.`mlflow.parentRunId` = '{run}'", order_by=["attributes.start_time ASC"]
            )
        return [str(one.info.run_id) for one in found]

    def tags(self, run: str) -> dict[str, str]:
        """Tags of a run."""
        with _guarded(f"run {run}"):
            return dict(self._client.get_run(run).data.tags)

    def artifact(self, run: str, path: Path) -> None:
        """Copy a file, or what is in a folder, to the run."""
        if not path.exists():
            raise NotFound("file", str(path))
        with _guarded(f"run {run}"):
            if path.is_dir():
                self._client.log_artifacts(run, str(path), path.name)
            else:
                self._client.log_artifact(run, str(path))

    def picture(self, run: str, name: str, step: int, png: bytes) -> None:
        """Keep a PNG with the run, as ``samples/NAME-STEP.png``."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}-{step:05d}.png"
            path.write_bytes(png)
            with _guarded(f"run {run}"):
                self._client.log_artifact(run, str(path), "samples")

    def register(self, name: str, run: str, source: str, tags: Mapping[str, str] | None = None) -> int:
        """Add a version to the model called ``name`` and give its number, 1 for the first."""
        with _guarded(f"model {name}"):
            # Two processes may register the first version at once: whoever is second finds the name taken.
            with contextlib.suppress(Conflict), _guarded(f"model {name}"):
                self._client.create_registered_model(name)
            made = self._client.create_model_version(
                name, source, run_id=run, tags=dict(tags or {}), await_creation_for=0
            )
        return int(made.version)

    def set_alias(self, name: str, alias: str, number: int) -> None:
        """Point an alias such as ``champion`` to a version; it leaves the version that had it."""
        with _guarded(f"model {name}:{number}"):
            self._client.set_registered_model_alias(name, alias, str(number))

    def mirror(self, name: str, alias: str, run: str) -> None:
        """Point an alias to the version that a run made; where it made none, to none."""
        with _guarded(f"alias {alias} of model {name}"):
            made = self._client.search_model_versions(f"run_id='{run}'") if run else []
            numbers = [int(one.version) for one in made if one.name == name]
        if numbers:
            self.set_alias(name, alias, max(numbers))
        elif self.alias(name, alias) is not None:
            with _guarded(f"alias {alias} of model {name}"):
                self._client.delete_registered_model_alias(name, alias)

    def alias(self, name: str, alias: str) -> int | None:
        """Number of the version that the alias points to; ``None`` where it points to none."""
        try:
            with _guarded(f"model {name}"):
                number = self._client.get_registered_model(name).aliases.get(alias)
        except NotFound:
            return None
        return None if number is None else int(number)

    def get(self, name: str, number: int) -> Registered:
        """One version; ``NotFound`` where there is none."""
        with _guarded(f"model {name}:{number}"):
            found = self._client.get_model_version(name, str(number))
        return Registered(
            name=found.name,
            number=int(found.version),
            run=found.run_id or "",
            source=found.source or "",
            tags=dict(found.tags),
            aliases=tuple(sorted(found.aliases)),
        )

    def _experiment(self, name: str) -> str:
        place = f"{self._artifacts}/{name}" if self._artifacts else None
        try:
            with _guarded("experiment"):
                return str(self._client.create_experiment(name, artifact_location=place))
        except Conflict:
            # Another process made it since we looked.
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _PARAM_CHARACTERS else text[: _PARAM_CHARACTERS - 1] + "…"


@contextlib.contextmanager
def _guarded(what: str) -> Iterator[None]:
    """MLflow without its chatter, and its errors as ours."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Its import sets up logging of its own, so the level is set once it is there.
            import mlflow.exceptions

            logger.setLevel(logging.ERROR)
            yield
        except mlflow.exceptions.MlflowException as error:
            raise _ours(what, error) from None
        finally:
            logger.setLevel(level)


def _ours(what: str, error: Any) -> LoopworksError:
    first = (str(error.message).strip().splitlines() or ["no message"])[0]
    match error.error_code:
        case "RESOURCE_DOES_NOT_EXIST":
            return NotFound("run or model", what)
        case "RESOURCE_ALREADY_EXISTS":
            return Conflict(f"{what} exists already")
        case "INVALID_PARAMETER_VALUE":
            return Invalid(what, "what MLflow accepts", first)
        case "TEMPORARILY_UNAVAILABLE":
            return Unreachable(first)
    return Failed(f"MLflow must answer for {what}; got {first}")
