"""One attempt of a job: a child is started, listened to, and if need be stopped."""

import json
import os
import selectors
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from loopworks.core.errors import LoopworksError
from loopworks.jobs.folder import JobsFolder, now
from loopworks.jobs.forks import STOP, Child, Forks

GRACE_S = 1.0
"""How long a step that was asked to stop may tidy up before it is killed, in seconds."""
_TICK_S = 0.1
_LIBRARIES_S = 60.0
_POLL_S = 0.05
_DRAIN_S = 0.5
_LINE_BYTES = 64 * 1024
_LOG_BYTES = 32 * 1024 * 1024


class Log:
    """A job's log file. A full disk costs lines, never the job."""

    def __init__(self, path: Path, limit_bytes: int = _LOG_BYTES) -> None:
        """Append to ``path`` until it has ``limit_bytes``."""
        self._path = path
        self._left = limit_bytes - (path.stat().st_size if path.exists() else 0)

    def add(self, lines: list[str]) -> None:
        """Append lines, each with its time in UTC."""
        if self._left <= 0 or not lines:
            return
        stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        data = "".join(f"{stamp} {line}\n" for line in lines).encode("utf-8", "replace")
        self._left -= len(data)
        if self._left <= 0:
            data += f"{stamp} loopworks: the log is full, no more lines are kept\n".encode()
        _append(self._path, data)


class Attempt:
    """Runs once, in the thread that calls ``run``; ``stop`` and ``kill`` come from other threads."""

    def __init__(self, folder: JobsFolder, job_id: str, state: Mapping[str, Any], forks: Forks) -> None:
        """Nothing is started yet; ``state`` is the job's as it stands on disk."""
        self.job_id = job_id
        self.state = {**state, "status": "running", "attempts": state["attempts"] + 1}
        self.state["started_at"] = state["started_at"] or now()
        self.is_cancelled = False
        self._folder = folder
        self._forks = forks
        self._stop_at: float | None = None
        self._lock = threading.Lock()
        self._tell: int | None = None
        self._end: dict[str, Any] | None = None
        self._is_stale = True
        self._written_at = 0.0
        self.log = Log(folder.path / job_id / "log.txt")

    def stop(self, *, cancel: bool) -> None:
        """Ask the step to stop; it is killed after ``GRACE_S``. ``cancel`` is the user's wish, else the worker ends."""
        with self._lock:
            self.is_cancelled = self.is_cancelled or cancel
            if self._stop_at is None:
                self._stop_at = time.monotonic() + GRACE_S
                self._pass_on_stop()

    def run(self) -> dict[str, Any]:
        """Start the child and wait for its end.

        Returns: ``kind`` is ``done`` with ``result``, ``failed`` or ``cancelled`` with ``error``, or ``died`` with
        ``why``.
        """
        self.log.add([f"loopworks: attempt {self.state['attempts']} starts"])
        self._write_state(safe=True)
        self._wait_for_libraries()
        with ExitStack() as stack:
            events, their_events = _pipe(stack)
            output, their_output = _pipe(stack)
            their_control, control = _pipe(stack)
            order = {"workspace": str(self._folder.workspace), "id": self.job_id}
            try:
                fds = [end.fileno() for end in (their_events, their_control, their_output)]
                child = self._forks.fork(f"{self.job_id}-{self.state['attempts']}", order, fds)
            except LoopworksError as error:
                return {"kind": "died", "why": f"could not be started: {error.message}"}
            for theirs in (their_events, their_output, their_control):
                theirs.close()
            with self._lock:
                self._tell = control.fileno()
                if self._stop_at is not None:
                    self._pass_on_stop()
            try:
                self._listen(child, events.fileno(), output.fileno())
            finally:
                with self._lock:
                    self._tell = None
        self._written_at = 0.0
        self._write_state()  # the last progress, which the throttle may hold
        return self._outcome(child)

    def _wait_for_libraries(self) -> None:
        """Let the fork server finish its imports: a child that starts before repeats them all, and is slower for it.

        Measured on two cores: a first training took 79 s beside the server's own imports, 25 s after them.
        """
        end = time.monotonic() + _LIBRARIES_S
        while not self._forks.is_warm() and self._stop_at is None and time.monotonic() < end:
            if not self.state["text"]:
                self.state["text"] = "loading libraries"
                self._write_state()
            time.sleep(_POLL_S)

    def _pass_on_stop(self) -> None:
        if self._tell is not None:
            with suppress(BrokenPipeError):  # it has ended already
                os.write(self._tell, STOP)

    def _listen(self, child: Child, events: int, output: int) -> None:
        readers = {events: _Lines(), output: _Lines(_LINE_BYTES)}
        with selectors.DefaultSelector() as selector:
            for fd in readers:
                selector.register(fd, selectors.EVENT_READ)
            gone_at: float | None = None
            while selector.get_map():
                for key, _ in selector.select(_POLL_S):
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fd)
                    lines = readers[key.fd].take(data)
                    if key.fd == events:
                        self._hear(lines)
                    else:
                        self.log.add([_shown(line) for line in lines])
                self._write_state()
                moment = time.monotonic()
                if self._stop_at is not None and moment > self._stop_at:
                    self._forks.kill(child)
                if child.ended.is_set():
                    # Something that the step started may hold the pipes open: what was written is read, no more.
                    gone_at = gone_at or moment
                    if moment > gone_at + _DRAIN_S:
                        break
        if not child.ended.wait(GRACE_S):  # it closed its pipes, so it is past all that it could tell
            self._forks.kill(child)
            child.ended.wait()

    def _hear(self, lines: list[bytes]) -> None:
        points = []
        for line in lines:
            event = json.loads(line)
            if event["kind"] == "progress":
                self.state["share"], self.state["text"] = event["share"], event["text"]
                self._is_stale = True
            elif event["kind"] == "metric":
                points.append(json.dumps([event["name"], event["step"], event["value"]]) + "\n")
            else:
                self._end = event
        if points:
            _append(self._folder.path / self.job_id / "metrics.jsonl", "".join(points).encode())

    def _write_state(self, *, safe: bool = False) -> None:
        moment = time.monotonic()
        if safe or (self._is_stale and moment - self._written_at >= _TICK_S):
            self._is_stale, self._written_at = False, moment
            with suppress(OSError):  # a full disk: the next tick tries again, and the end insists
                self._folder.write_state(self.job_id, self.state, safe=safe)

    def _outcome(self, child: Child) -> dict[str, Any]:
        if self._end is not None:
            return self._end
        if self.is_cancelled:
            return {"kind": "cancelled", "error": None}
        return {"kind": "died", "why": reason(child.code)}


class _Lines:
    """Bytes to lines; ``limit_bytes`` cuts an endless line where the line is only for people."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        self._rest = b""
        self._limit_bytes = limit_bytes

    def take(self, data: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if self._rest and (not data or (self._limit_bytes is not None and len(self._rest) > self._limit_bytes)):
            lines.append(self._rest)
            self._rest = b""
        return lines


def reason(code: int | None) -> str:
    """How a child ended, in words; ``code`` as in ``subprocess``."""
    if code is None:
        return "lost its fork server"
    if code >= 0:
        return f"ended with exit code {code} before it gave a result"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else "unknown"
    perhaps = ", perhaps out of memory" if -code == signal.SIGKILL else ""
    return f"was killed by signal {-code} ({name}){perhaps}"


def _shown(line: bytes) -> str:
    """A line as a terminal would leave it: a progress bar that rewrites itself counts once."""
    text = line.decode("utf-8", "replace").rstrip("\r")
    return text.rpartition("\r")[2]


def _pipe(stack: ExitStack) -> tuple[FileIO, FileIO]:
    """Both ends of a pipe, closed with ``stack`` at the latest."""
    reader, writer = os.pipe()
    return stack.enter_context(FileIO(reader, "rb")), stack.enter_context(FileIO(writer, "wb"))


def _append(path: Path, data: bytes) -> None:
    with suppress(OSError), path.open("ab") as file:
        file.write(data)
