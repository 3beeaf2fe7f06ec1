"""Jobs on disk: one folder per job, written so that a kill between any two steps loses nothing.

``job.json`` is the order and never changes. ``state.json`` is how far it is; the worker replaces it whole.
``log.txt`` and ``metrics.jsonl`` grow. ``scratch/`` belongs to the step. An empty file ``open/ID-ROUND`` says that
the job has not ended, so that a worker finds its work without reading thousands of old jobs; ``cancel/ID`` asks to
stop. Readers need neither the worker nor its database, and ``loopworks jobs`` need not import DBOS (1.2 s).
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loopworks.core.errors import Damaged, Denied, Invalid, NoSpace, NotFound
from loopworks.jobs.job import ENDED, Job

_QUEUED: dict[str, Any] = {
    "status": "queued",
    "round": 1,
    "share": 0.0,
    "text": "",
    "result": None,
    "error": None,
    "started_at": None,
    "ended_at": None,
    "attempts": 0,
}


class JobsFolder:
    """The ``jobs`` folder of a workspace."""

    def __init__(self, workspace: Path) -> None:
        """Nothing is read or made yet."""
        self.workspace = workspace
        self.path = workspace / "jobs"
        self.lock = self.path / "worker.lock"

    def prepare(self) -> None:
        """Make the folders.

        Raises: NotFound: no workspace folder. Denied, NoSpace: it cannot be written.
        """
        if not self.workspace.is_dir():
            raise NotFound("folder", str(self.workspace), hint="loopworks init makes a workspace")
        with writing(self.path):
            for name in ("open", "cancel", "keys"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            # A probe, because a folder may refuse writes though it exists (another user's, a read-only disk).
            probe = self.path / "open" / f".probe-{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()

    def identity(self) -> str:
        """Name of this folder among all that may share a database; another one once the folder was moved or copied.

        DBOS recovers by this name. A copy must not answer to the original's, or both would run the same jobs.
        """
        place = hashlib.sha256(f"{os.uname().nodename}:{self.workspace.resolve()}".encode()).hexdigest()[:16]
        path = self.path / "identity.json"
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
            body = json.loads(path.read_text(encoding="utf-8"))
            if body["place"] == place:
                return str(body["id"])
        fresh = secrets.token_hex(6)
        replace(path, json.dumps({"id": fresh, "place": place}), safe=True)
        return fresh

    def create(self, spec: Mapping[str, Any]) -> None:
        """Put a queued job on disk; when this returns, a power cut does not lose it."""
        final = self.path / str(spec["id"])
        new = self.path / f".new-{spec['id']}"
        with writing(self.path):
            try:
                new.mkdir()
                (new / "scratch").mkdir()
                replace(new / "job.json", json.dumps(spec, ensure_ascii=False), safe=True)
                replace(new / "state.json", json.dumps(_QUEUED), safe=True)
                # The marker comes first: one without a job is swept later, a job without one would never start.
                self.mark(str(spec["id"]), 1)
                new.rename(final)
                _sync(self.path)
            except OSError:
                shutil.rmtree(new, ignore_errors=True)
                raise

    def mark(self, job_id: str, round_: int) -> None:
        """Say that round ``round_`` of the job has not ended."""
        with writing(self.path):
            (self.path / "open" / f"{job_id}-{round_}").touch()
            _sync(self.path / "open")

    def marked(self) -> list[tuple[str, int]]:
        """Jobs that have not ended, with their round, in no order."""
        found = []
        for name in os.listdir(self.path / "open"):
            job_id, _, round_ = name.rpartition("-")
            if job_id and round_.isdigit() and not name.startswith("."):
                found.append((job_id, int(round_)))
        return found

    def marked_at(self, job_id: str, round_: int) -> int:
        """When the job was submitted or retried, in nanoseconds; its place in the order."""
        with contextlib.suppress(FileNotFoundError):
            return (self.path / "open" / f"{job_id}-{round_}").stat().st_mtime_ns
        return 0

    def unmark(self, job_id: str, round_: int) -> None:
        """Forget that the job was open, and the wish to cancel it."""
        (self.path / "cancel" / job_id).unlink(missing_ok=True)
        (self.path / "open" / f"{job_id}-{round_}").unlink(missing_ok=True)

    def ask_cancel(self, job_id: str) -> None:
        """Leave the wish to stop the job where the worker, or the next one, finds it."""
        with writing(self.path):
            (self.path / "cancel" / job_id).touch()

    def cancels(self) -> list[str]:
        """Ids of jobs that somebody wants to stop."""
        return os.listdir(self.path / "cancel")

    def ids(self) -> list[str]:
        """Ids of all jobs, newest first."""
        try:
            entries = [e for e in os.scandir(self.path) if is_id(e.name)]
        except FileNotFoundError:
            return []
        stamped = []
        for entry in entries:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                stamped.append((os.stat(os.path.join(entry.path, "job.json")).st_mtime_ns, entry.name))
        return [name for _, name in sorted(stamped, reverse=True)]

    def find(self, prefix: str) -> str:
        """The id that starts with ``prefix``.

        Raises: NotFound: none does. Invalid: several do.
        """
        if is_id(prefix) and (self.path / prefix / "job.json").is_file():
            return prefix
        ids = self.ids()
        hits = [i for i in ids if prefix and i.startswith(prefix)]
        if not hits:
            raise NotFound("job", prefix, ids)
        if len(hits) > 1:
            raise Invalid("job id", "the start of one job's id", prefix, f"several start so: {', '.join(hits[:12])}")
        return hits[0]

    def spec(self, job_id: str) -> dict[str, Any]:
        """The order as it was submitted."""
        return _read(self.path / job_id / "job.json")

    def state(self, job_id: str) -> dict[str, Any]:
        """How far the job is."""
        return _read(self.path / job_id / "state.json")

    def stamp(self, job_id: str) -> tuple[int, int]:
        """Changes whenever ``state`` does; one system call."""
        facts = os.stat(self.path / job_id / "state.json")
        return facts.st_ino, facts.st_mtime_ns

    def write_state(self, job_id: str, state: Mapping[str, Any], *, safe: bool = True) -> None:
        """Replace the state; ``safe`` waits until the disk has it, which a progress tick need not."""
        replace(self.path / job_id / "state.json", json.dumps(state, ensure_ascii=False), safe=safe)

    def job(self, job_id: str) -> Job:
        """The job as it stands on disk."""
        spec, state = self.spec(job_id), self.state(job_id)
        try:
            return Job(
                id=spec["id"],
                step=spec["step"],
                title=spec["title"],
                params=spec["params"],
                key=spec["key"],
                created_at=datetime.fromisoformat(spec["created_at"]),
                status=state["status"],
                share=state["share"],
                text=state["text"],
                result=state["result"],
                error=state["error"],
                started_at=_time(state["started_at"]),
                ended_at=_time(state["ended_at"]),
                attempts=state["attempts"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"job {job_id} must have a whole record; got {error!r}") from None

    def log(self, job_id: str) -> list[str]:
        """Lines of the job's log so far."""
        try:
            text = (self.path / job_id / "log.txt").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return text.split("\n")[:-1]

    def metrics(self, job_id: str) -> dict[str, list[tuple[int, float]]]:
        """Curves so far: name -> ``[(step, value), ...]`` by step; a repeated step keeps its last value."""
        curves: dict[str, dict[int, float]] = {}
        try:
            text = (self.path / job_id / "metrics.jsonl").read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        for line in text.split("\n")[:-1]:
            # A full disk may have cut a line, and the next one was glued to it: the rest of the curve stays good.
            with contextlib.suppress(ValueError, TypeError):
                name, step, value = json.loads(line)
                curves.setdefault(str(name), {})[int(step)] = float(value)
        return {name: sorted(points.items()) for name, points in curves.items()}

    @contextlib.contextmanager
    def keys(self) -> Iterator[None]:
        """Be the only one who looks up or sets a key."""
        with writing(self.path), (self.path / "keys" / ".lock").open("w", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def key(self, key: str) -> str | None:
        """Id of the job that was submitted with ``key`` last, if it is there."""
        try:
            job_id = (self.path / "keys" / _digest(key)).read_text(encoding="ascii")
        except FileNotFoundError:
            return None
        return job_id if is_id(job_id) and (self.path / job_id / "job.json").is_file() else None

    def set_key(self, key: str, job_id: str) -> None:
        """From now on ``key`` means ``job_id``."""
        replace(self.path / "keys" / _digest(key), job_id, safe=True)


def is_id(name: str) -> bool:
    """Whether ``name`` could be a job's id: 12 lower-case hex digits."""
    return len(name) == 12 and all(c in "0123456789abcdef" for c in name)


def new_id() -> str:
    """A fresh id; short enough to type its first four digits."""
    return secrets.token_hex(6)


def now() -> str:
    """The time in UTC as ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def queued(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a job that goes round again; what it has counted so far stays."""
    return {**_QUEUED, "round": state["round"] + 1, "attempts": state["attempts"]}


def ended(state: Mapping[str, Any], status: str, **facts: Any) -> dict[str, Any]:
    """The state of a job that has come to an end."""
    if status not in ENDED:
        raise AssertionError(status)
    return {**state, "status": status, "ended_at": now(), **facts}


def replace(path: Path, text: str, *, safe: bool) -> None:
    """Write a file whole or not at all; ``safe`` waits for the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            if safe:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if safe:
            _sync(path.parent)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell the reasons why a folder cannot be written apart from faults of ours."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"the disk of {path} must have room; got {error.strerror}", "free some space") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Denied(
                f"folder {path} must be writable to run jobs; got {error.strerror}",
                "looking at jobs works in a read-only folder, starting them does not",
            ) from None
        raise


def _read(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound("job", path.parent.name) from None
    except ValueError as error:
        raise Damaged(f"{path} must be JSON; got {error}", "restore the file or remove the job's folder") from None
    if not isinstance(body, dict):
        raise Damaged(f"{path} must be a JSON object; got {type(body).__name__}")
    return body


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8")).hexdigest()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
