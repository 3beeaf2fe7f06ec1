"""The part that DBOS does: a queue with a limit, and a workflow that a killed worker's successor continues.

The workflow of a job is: run the step in a child, up to three times should the child die, then publish what came of
it. DBOS records the outcome of each of these, so after a kill it goes on with the first one that has none. DBOS is
kept quiet and local: no telemetry, no admin server, no console, JSON in the database instead of pickle.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopworks.core.errors import Failed, LoopworksError, Missing, Unreachable

if TYPE_CHECKING:
    from dbos import DBOS

log = logging.getLogger(__name__)

TRIES = 3
"""How often one round of a job starts its step before a dying child fails the job."""
VERSION = "loopworks-jobs-1"
"""Of the workflow below. Change it together with the workflow's steps: DBOS recovers only its own version."""
_POLL_S = 1.0
_AHEAD = 16

Run = Callable[[str, int], dict[str, Any]]
Publish = Callable[[str, int, dict[str, Any]], None]


def url_of(folder: Path, database: str) -> str:
    """SQLAlchemy URL of the jobs' database: SQLite in the workspace where ``database`` is empty."""
    return (
        database.replace("postgresql+psycopg://", "postgresql://", 1)
        if database
        else f"sqlite:///{folder}/jobs/jobs.db"
    )


class Durable:
    """The workflow and the queue of one workspace on its DBOS database."""

    def __init__(self, *, url: str, identity: str, concurrency: int, run: Run, publish: Publish) -> None:
        """Nothing is opened yet.

        Args:
            url: SQLAlchemy URL of the database.
            identity: of the workspace folder: executor, application and queue carry it, so that several folders can
                share one PostgreSQL and none of them recovers another's jobs.
            concurrency: how many jobs may run at once.
            run: runs one attempt; it must not return while the worker is ending.
            publish: makes the outcome known; called again with the same outcome after a kill.
        """
        self._url = url
        self._identity = identity
        self._concurrency = concurrency
        self._run = run
        self._publish = publish
        self._dbos: type[DBOS] | None = None
        self._workflow: Callable[[str, int], Any] | None = None

    def launch(self) -> None:
        """Open the database, create what is missing, recover what this folder's last worker left.

        Raises: Missing: PostgreSQL without its driver. Unreachable, Failed: the database cannot be used.
        """
        if not self._url.startswith("sqlite"):
            _need_psycopg()
        from dbos import DBOS, DBOSPortableJSONSerializer

        quiet = logging.getLogger("dbos")
        quiet.handlers[:] = [logging.NullHandler()]  # otherwise DBOS adds one that writes to the console
        quiet.propagate = True
        DBOS(
            config={
                "name": f"loopworks-{self._identity}",
                "system_database_url": self._url,
                "application_version": f"{VERSION}-{self._identity}",  # DBOS wants it unique among applications
                "executor_id": self._identity,
                "serializer": DBOSPortableJSONSerializer(),
                "enable_otlp": False,
                "log_level": "WARNING",
                "use_listen_notify": False,
                "notification_listener_polling_interval_sec": 60.0,  # nothing here sends notifications
                "scheduler_polling_interval_sec": 3600.0,
            }
        )
        self._dbos = DBOS
        self._workflow = self._define(DBOS)
        try:
            DBOS.launch()
            # More than may run: they wait for their turn in this process, so that no poll stands between short jobs.
            DBOS.register_queue(
                self._queue, worker_concurrency=self._concurrency + _AHEAD, polling_interval_sec=_POLL_S
            )
        except LoopworksError:
            raise
        except Exception as error:  # SQLAlchemy's, the driver's and DBOS's own errors have no common base
            raise _plainly(error, self._url) from None

    def start(self, job_id: str, round_: int, *, at_once: bool) -> None:
        """Make the job durable; again does no harm. ``at_once`` skips the queue, which is polled each second."""
        from dbos import SetWorkflowID

        if self._dbos is None or self._workflow is None:
            raise AssertionError
        with SetWorkflowID(self._name(job_id, round_)):
            if at_once:
                self._dbos.start_workflow(self._workflow, job_id, round_)
            else:
                self._dbos.enqueue_workflow(self._queue, self._workflow, job_id, round_)

    def status(self, job_id: str, round_: int) -> str | None:
        """DBOS's word for the job: ENQUEUED, PENDING, SUCCESS, ERROR ...; ``None`` where it does not know it."""
        if self._dbos is None:
            raise AssertionError
        found = self._dbos.get_workflow_status(self._name(job_id, round_))
        return None if found is None else str(found.status)

    @property
    def _queue(self) -> str:
        return f"loopworks-{self._identity}"

    def _name(self, job_id: str, round_: int) -> str:
        return f"{self._identity}-{job_id}-{round_}"

    def _define(self, dbos: "type[DBOS]") -> Callable[[str, int], Any]:
        @dbos.step(name="run")
        def run(job_id: str, round_: int) -> dict[str, Any]:
            return self._run(job_id, round_)

        @dbos.step(name="publish")
        def publish(job_id: str, round_: int, outcome: dict[str, Any]) -> None:
            self._publish(job_id, round_, outcome)

        @dbos.workflow(name="loopworks.job", max_recovery_attempts=None)
        def job(job_id: str, round_: int) -> None:
            outcome: dict[str, Any] = {}
            for _ in range(TRIES):
                outcome = run(job_id, round_)
                if outcome["kind"] != "died":
                    break
            publish(job_id, round_, outcome)

        return job


def _need_psycopg() -> None:
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise Missing("psycopg", "postgres", "jobs on PostgreSQL") from None


def _plainly(error: Exception, url: str) -> LoopworksError:
    """A driver's error as ours, without the URL's password."""
    first = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    where = "jobs/jobs.db" if url.startswith("sqlite") else "the jobs' database"
    if url.startswith("sqlite"):
        return Failed(f"{where} must be a database that DBOS can use; got {first}", "restore it, or move it away")
    return Unreachable(f"{where} must answer; got {first}", "check the database URL and that the server runs")


def readable(url: str) -> None:
    """Check that the database at ``url`` answers and holds a queue.

    Raises: Missing, Unreachable, Failed: why not.
    """
    if not url.startswith("sqlite"):
        _need_psycopg()
    from dbos import DBOSClient

    try:
        client = DBOSClient(system_database_url=url, retry_connection_errors=False)
        try:
            client.list_workflows(limit=1)
        finally:
            client.destroy()
    except Exception as error:  # SQLAlchemy's, the driver's and DBOS's own errors have no common base
        raise _plainly(error, url) from None
