"""Durable jobs of one workspace, as a program uses them."""

import atexit
import builtins
import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import WeakMethod

from loopworks.core.errors import Busy, Cancelled, Conflict, Failed, Invalid, LoopworksError, NotFound, from_json
from loopworks.core.registry import plugins
from loopworks.core.values import Problem
from loopworks.jobs import folder as disk
from loopworks.jobs import lock
from loopworks.jobs.durable import url_of
from loopworks.jobs.folder import JobsFolder
from loopworks.jobs.forks import WARM
from loopworks.jobs.job import STATUSES, Job, plain

_POLL_S = 0.02
_CARE_S = 0.25
_CANCEL_S = 10.0
_STOP_S = 5.0
_LIVES = 5
"""How often a client starts a worker for one job that makes no headway before it gives the job's user the reason."""

Progress = Callable[[Job], None]


class Jobs:
    """Jobs of one workspace: submit them, follow them, stop them.

    Any number of processes may use the same workspace at once. The first that needs a worker starts one, and the
    worker lives as long as that process; when it goes, the next process whose job waits starts another, and jobs go
    on from their checkpoints. Looking at jobs needs no worker, no database and no right to write.
    """

    def __init__(
        self,
        folder: Path,
        *,
        database: str = "",
        concurrency: int = 1,
        preload: Sequence[str] = (),
        warm: Sequence[str] = WARM,
    ) -> None:
        """Nothing is written or started yet.

        Args:
            folder: the workspace.
            database: URL of a PostgreSQL database for the queue, or empty for ``jobs/jobs.db`` in the workspace.
            concurrency: how many jobs may run at once; the settings of the client that starts the worker count.
            preload: modules that register plug-ins and have no entry point.
            warm: modules to import ahead of the first job where they are installed.
        """
        if concurrency < 1:
            raise Invalid("concurrency of jobs", "at least 1", concurrency)
        if database and not database.startswith(("postgresql://", "postgresql+psycopg://")):
            raise Invalid("database of jobs", "empty or postgresql://user@host/name", database.partition(":")[0])
        self._folder = JobsFolder(folder.resolve())
        self._preload = tuple(preload)
        self._setup = {
            "database": database,
            "concurrency": concurrency,
            "preload": list(preload),
            "warm": list(warm),
        }
        self._process = os.getpid()
        self._worker: subprocess.Popen[bytes] | None = None
        self._care = threading.Lock()
        self._is_prepared = False

    def __enter__(self) -> Self:
        """These jobs; leaving closes them."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def submit(self, step: str, params: Mapping[str, Any], *, title: str = "", key: str | None = None) -> str:
        """Put a job in the queue; when this returns, no kill loses it.

        Args:
            step: name of a plug-in ``job.NAME``, with or without ``job.``.
            params: what the step takes, as plain JSON; ``seed``, an integer, also becomes ``Context.seed``.
            title: for people; the step's name where it is empty.
            key: the same key gives the same job for ever, unless that one failed or was cancelled.
        Returns: the job's id.
        Raises: NotFound: no such step. Invalid: the parameters are not plain JSON. Conflict: ``key`` belongs to a job
            with another step or other parameters. Denied, NoSpace: the folder cannot be written.
        """
        step = step.removeprefix("job.")
        self._known(step)
        text = plain(params, "params")
        self._prepare()
        spec = {
            "id": disk.new_id(),
            "step": step,
            "title": title or step,
            "params": json.loads(text),
            "key": key,
            "created_at": disk.now(),
        }
        if key is None:
            self._folder.create(spec)
        else:
            with self._folder.keys():
                if (earlier := self._earlier(key, spec)) is not None:
                    self._keep_worker()
                    return earlier
                # The key first: one that leads nowhere counts as free, a job that no key leads to would run twice.
                self._folder.set_key(key, spec["id"])
                self._folder.create(spec)
        self._keep_worker()
        return str(spec["id"])

    def get(self, job_id: str) -> Job:
        """The job whose id is or starts with ``job_id``, as it is now.

        Raises: NotFound: there is none. Invalid: several ids start so.
        """
        return self._seen(self._folder.job(self._folder.find(job_id)), None)

    def list(self, limit: int = 50, status: str | None = None) -> list[Job]:
        """The newest jobs first, at most ``limit``; ``status`` keeps those that are so now."""
        if status is not None and status not in STATUSES:
            raise Invalid("status", f"one of {', '.join(STATUSES)}", status)
        has_worker = lock.is_held(self._folder.lock)
        found: list[Job] = []
        for job_id in self._folder.ids():
            if len(found) >= limit:
                break
            with contextlib.suppress(NotFound):  # removed in this moment
                job = self._seen(self._folder.job(job_id), has_worker)
                if status is None or job.status == status:
                    found.append(job)
        return found

    def follow(self, job_id: str, on_progress: Progress | None = None, *, timeout_s: float | None = None) -> Job:
        """Wait until the job has ended; sees to it that a worker runs.

        Args:
            job_id: an id or the unique start of one.
            on_progress: is called with the job whenever it has changed, at most some ten times a second.
            timeout_s: give up waiting (not the job) after so many seconds and return the job as it is.
        Raises: LoopworksError: why no worker can be started.
        """
        job_id = self._folder.find(job_id)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        stamp: object = None
        care_at = 0.0
        lives = _Lives()
        while True:
            if (fresh := self._folder.stamp(job_id)) != stamp:
                stamp = fresh
                job = self._folder.job(job_id)
                lives.seen(job)
                if on_progress is not None:
                    on_progress(job)
                if job.is_ended:
                    return job
            moment = time.monotonic()
            if deadline is not None and moment >= deadline:
                return self.get(job_id)
            if moment >= care_at:
                care_at = moment + _CARE_S
                if self._keep_worker():
                    lives.spent()
            time.sleep(_POLL_S)

    def run(
        self,
        step: str,
        params: Mapping[str, Any],
        on_progress: Progress | None = None,
        *,
        title: str = "",
        key: str | None = None,
    ) -> dict[str, Any]:
        """Submit, wait and return the result.

        Raises: what ``submit`` raises; the job's own error as the class it had; Cancelled: somebody stopped the job.
        """
        return self.result(self.submit(step, params, title=title, key=key), on_progress)

    def result(self, job_id: str, on_progress: Progress | None = None) -> dict[str, Any]:
        """Wait for a job and return its result.

        Raises: NotFound: no such job; its own error as the class it had; Cancelled: somebody stopped the job.
        """
        job = self.follow(job_id, on_progress)
        if job.status == "done" and job.result is not None:
            return job.result
        if job.status == "cancelled":
            raise Cancelled(f"job {job.id} was cancelled")
        raise from_json(job.error or {})

    def cancel(self, job_id: str) -> Job:
        """Stop the job; when this returns, its process is dead. One that has ended stays as it is.

        Raises: NotFound: no such job. Busy: the worker does not answer.
        """
        job_id = self._folder.find(job_id)
        job = self._folder.job(job_id)
        if job.is_ended:
            return job
        self._folder.ask_cancel(job_id)
        deadline = time.monotonic() + _CANCEL_S
        while not (job := self._folder.job(job_id)).is_ended:
            if time.monotonic() > deadline:
                raise Busy(f"job {job_id} must stop within {_CANCEL_S:.0f} s; got no answer from its worker")
            if not lock.is_held(self._folder.lock):
                self._cancel_alone(job_id)
            time.sleep(_POLL_S)
        return job

    def log(self, job_id: str) -> builtins.list[str]:
        """Lines that the job's step printed or logged so far, each with its time in UTC."""
        return self._folder.log(self._folder.find(job_id))

    def metrics(self, job_id: str) -> dict[str, builtins.list[tuple[int, float]]]:
        """Curves that the job's step reported so far: name -> ``[(step, value), ...]`` in the order of the steps."""
        return self._folder.metrics(self._folder.find(job_id))

    def retry(self, job_id: str) -> Job:
        """Run a failed or cancelled job once more, from its checkpoints; one that waits or runs is left alone.

        Raises: Conflict: the job is done already.
        """
        job_id = self._folder.find(job_id)
        self._prepare()
        with self._folder.keys():
            state = self._folder.state(job_id)
            if state["status"] == "done":
                raise Conflict(f"job {job_id} must have failed or been cancelled; got done", "submit a new job")
            if state["status"] in ("failed", "cancelled"):
                fresh = disk.queued(state)
                (self._folder.path / "cancel" / job_id).unlink(missing_ok=True)
                self._folder.write_state(job_id, fresh)
                self._folder.mark(job_id, fresh["round"])
        self._keep_worker()
        return self.get(job_id)

    def check(self) -> builtins.list[Problem]:
        """What is wrong with the queue, for ``loopworks doctor``: lock, waiting or damaged jobs, database."""
        if not self._folder.path.is_dir():
            return []
        has_worker = lock.is_held(self._folder.lock)
        found = [*self._check_lock(has_worker), *self._check_jobs(has_worker)]
        if (self._folder.path / "jobs.db").exists() or self._setup["database"]:
            found += self._check_database()
        return found

    def close(self) -> None:
        """End the worker if it is ours; a job that runs stays in the queue and goes on from its checkpoint later."""
        with self._care:
            worker, self._worker = self._worker, None
        if worker is None or os.getpid() != self._process:
            return
        _release(worker)
        try:
            worker.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        if worker.stdout is not None:
            worker.stdout.close()

    def _known(self, step: str) -> None:
        for module in self._preload:
            importlib.import_module(module)
        plugins.get(f"job.{step}")

    def _prepare(self) -> None:
        if not self._is_prepared:
            self._folder.prepare()
            self._is_prepared = True

    def _earlier(self, key: str, spec: Mapping[str, Any]) -> str | None:
        """The job that has the key already, if it still counts."""
        earlier = self._folder.key(key)
        if earlier is None or self._folder.state(earlier)["status"] in ("failed", "cancelled"):
            return None
        old = self._folder.spec(earlier)
        if (old["step"], old["params"]) != (spec["step"], spec["params"]):
            raise Conflict(
                f"key {key!r} must stand for one step and one set of parameters; got others than job {earlier} has",
                "use another key",
            )
        return earlier

    def _seen(self, job: Job, has_worker: bool | None) -> Job:
        """A job that "runs" while no worker does was interrupted by a kill: it waits."""
        if job.status != "running" or (lock.is_held(self._folder.lock) if has_worker is None else has_worker):
            return job
        facts = {name: getattr(job, name) for name in Job.__slots__}
        return Job(**{**facts, "status": "queued", "text": "interrupted; continues when a worker runs"})

    def wake(self) -> bool:
        """See to it that somebody works on what waits; whether a worker had to be started.

        For programs that submit and do not follow, such as a server: they call it now and then.
        """
        is_used = (self._folder.path / "open").is_dir()  # a workspace that never had a job has no queue yet
        return is_used and bool(self._folder.marked()) and self._keep_worker()

    def _keep_worker(self) -> bool:
        """See to it that somebody works on the queue; whether a worker had to be started.

        Raises: LoopworksError: the worker that we started says why it cannot work.
        """
        with self._care:
            if self._worker is not None and os.getpid() == self._process:
                if self._worker.poll() is None:
                    return False
                _raise_if_told(self._worker)
                self._worker = None
            if lock.is_held(self._folder.lock):
                return False
            self._prepare()
            self._worker = self._start()
            self._process = os.getpid()
            return True

    def _start(self) -> "subprocess.Popen[bytes]":
        path = self._folder.path / "worker.log"
        with disk.writing(path):
            is_long = path.exists() and path.stat().st_size > 1_000_000
            with path.open("wb" if is_long else "ab") as errors:
                worker = subprocess.Popen(
                    [sys.executable, "-P", "-m", "loopworks.jobs.worker", "--folder", str(self._folder.workspace)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,  # Ctrl-C in the terminal is for the client alone
                )
        # Not on the command line, which everybody can read: the URL may hold a password.
        here = os.getcwd()
        setup = {**self._setup, "sys_path": [p or here for p in sys.path]}
        if worker.stdin is None:
            raise AssertionError
        with contextlib.suppress(BrokenPipeError):
            worker.stdin.write(json.dumps(setup).encode() + b"\n")
            worker.stdin.flush()
        atexit.register(_at_exit, WeakMethod(self.close))
        return worker

    def _cancel_alone(self, job_id: str) -> None:
        """Cancel where there is no worker: be the owner of the queue for a moment."""
        held = lock.take(self._folder.lock)
        if held is None:
            return
        try:
            state = self._folder.state(job_id)
            if state["status"] not in ("done", "failed", "cancelled"):
                self._folder.write_state(job_id, disk.ended(state, "cancelled", error=Cancelled().to_json()))
            self._folder.unmark(job_id, state["round"])
        finally:
            os.close(held)

    def _check_lock(self, has_worker: bool) -> builtins.list[Problem]:
        pid = lock.holder(self._folder.lock)
        if not has_worker or pid is None:
            return []
        import psutil

        if psutil.pid_exists(pid):
            return []
        message = f"the lock must be held by a living worker; got process {pid}, which is gone"
        return [_problem(self._folder.lock, Busy(message, "another machine may own the queue, or a process it left"))]

    def _check_jobs(self, has_worker: bool) -> builtins.list[Problem]:
        found = []
        for job_id in self._folder.ids():
            try:
                job = self._folder.job(job_id)
            except LoopworksError as error:
                found.append(_problem(self._folder.path / job_id, error))
                continue
            if not job.is_ended and not has_worker:
                hint = "any command that follows a job starts a worker, so does loopworks serve"
                found.append(_problem(self._folder.path / job_id, Busy(f"job {job_id} waits and no worker runs", hint)))
        return found

    def _check_database(self) -> builtins.list[Problem]:
        from loopworks.jobs.durable import readable

        try:
            readable(url_of(self._folder.workspace, str(self._setup["database"])))
        except LoopworksError as error:
            return [_problem(self._folder.path / "jobs.db", error)]
        return []


class _Lives:
    """Counts the workers that were started for one job without any headway."""

    def __init__(self) -> None:
        self._left = _LIVES
        self._progress: object = None

    def seen(self, job: Job) -> None:
        if (progress := (job.share, job.text)) != self._progress:
            self._progress, self._left = progress, _LIVES

    def spent(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Failed("the jobs' worker must stay alive; got one that was killed again and again", _LOG)


_LOG = "jobs/worker.log in the workspace tells more"


def _raise_if_told(worker: "subprocess.Popen[bytes]") -> None:
    """Raise what a dead worker said before it went; one that was killed said nothing, and another may be started."""
    _release(worker)
    told = b""
    if worker.stdout is not None:
        with worker.stdout as out:
            told = out.read()
    if told:
        error = from_json(json.loads(told.splitlines()[-1]))
        if not isinstance(error, Busy):  # another client's worker was faster
            raise error
    elif worker.returncode not in (0, None) and worker.returncode > 0:
        raise Failed(f"the jobs' worker must start; got exit code {worker.returncode}", _LOG)


def _release(worker: "subprocess.Popen[bytes]") -> None:
    """Let go of the pipe that keeps the worker alive."""
    if worker.stdin is not None:
        with contextlib.suppress(OSError):
            worker.stdin.close()


def _at_exit(close: "WeakMethod[Callable[[], None]]") -> None:
    if (method := close()) is not None:
        method()


def _problem(path: Path, error: LoopworksError) -> Problem:
    return Problem(where=str(path), error=error.code, message=error.message, hint=error.hint)
