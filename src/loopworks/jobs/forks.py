"""The worker's side of the fork server: start children, end them, hear how they ended."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loopworks.core.errors import Failed

WARM = ("numpy", "PIL.Image", "sqlalchemy", "torch", "torchvision", "lightning")
"""What the steps that ship with Loopworks import; about 13 s in all on one core, once, behind the first job."""
STOP = b"s"
"""What a child's control pipe brings when its step shall stop."""
_START_S = 60.0


@dataclass(slots=True)
class Child:
    """One forked process. ``code`` is its exit code, below zero for a signal, ``None`` where that is not known."""

    pid: int
    ended: threading.Event = field(default_factory=threading.Event)
    code: int | None = None


class Forks:
    """Children of one fork server, which is started again should somebody kill it."""

    def __init__(self, *, sys_path: Sequence[str], preload: Sequence[str], warm: Sequence[str]) -> None:
        """Nothing is started yet; see ``start``.

        Args:
            sys_path: where the server looks for modules, so that what the user can import it can import too.
            preload: modules that register the user's plug-ins; one that cannot be imported fails every job.
            warm: modules to import ahead of the first job where they are installed.
        """
        self._setup = {"sys_path": list(sys_path), "preload": list(preload), "warm": list(warm)}
        self._lock = threading.Lock()
        self._pair: _Pair | None = None
        self._closed = False

    def start(self) -> None:
        """Start the server in the background; harmless when it runs."""
        with self._lock:
            self._running()

    def fork(self, tag: str, order: Mapping[str, str], fds: Sequence[int]) -> Child:
        """A child that runs ``order``; see ``child.main`` for the three descriptors, which stay ours to close.

        Raises: Failed: no child could be started.
        """
        with self._lock:
            return self._running().fork(tag, order, fds)

    def kill(self, child: Child) -> None:
        """End a child and all that it started, at once."""
        with self._lock:
            if self._pair is not None:
                self._pair.kill(child)

    def close(self) -> None:
        """End the server and with it every child."""
        with self._lock:
            self._closed = True
            if self._pair is not None:
                self._pair.close()
                self._pair = None

    def is_warm(self) -> bool:
        """Whether the next child finds everything imported."""
        with self._lock:
            return self._pair is not None and self._pair.warm.is_ready.is_set()

    def _running(self) -> "_Pair":
        if self._closed:
            raise Failed("the worker is ending; no step can be started")
        if self._pair is None or not self._pair.is_alive():
            if self._pair is not None:
                self._pair.close()
            self._pair = _Pair(self._setup)
        return self._pair


class _Pair:
    """One life of the two server processes."""

    def __init__(self, setup: Mapping[str, Any]) -> None:
        base, base_theirs = socket.socketpair()
        warm, warm_theirs = socket.socketpair()
        with base_theirs, warm_theirs:
            fds = (base_theirs.fileno(), warm_theirs.fileno())
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "loopworks.jobs.forkserver", *map(str, fds)],
                stdin=subprocess.DEVNULL,
                pass_fds=fds,
            )
        base.sendall(json.dumps(setup).encode() + b"\n")
        self.base, self.warm = _Line(base, "base"), _Line(warm, "warm")

    def is_alive(self) -> bool:
        return self.process.poll() is None and not self.base.is_gone.is_set()

    def fork(self, tag: str, order: Mapping[str, str], fds: Sequence[int]) -> Child:
        line = self.warm if self.warm.is_ready.is_set() and not self.warm.is_gone.is_set() else self.base
        return line.fork(tag, order, fds)

    def kill(self, child: Child) -> None:
        for line in (self.base, self.warm):
            line.kill(child)

    def close(self) -> None:
        for line in (self.base, self.warm):
            line.close()
        try:
            self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class _Line:
    """The talk with one server process, read by a thread of its own."""

    def __init__(self, end: socket.socket, name: str) -> None:
        self.is_ready = threading.Event()
        self.is_gone = threading.Event()
        self._end = end
        self._children: dict[int, Child] = {}
        self._answers: dict[str, Child | str] = {}
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._listen, name=f"forks-{name}", daemon=True)
        self._thread.start()

    def fork(self, tag: str, order: Mapping[str, str], fds: Sequence[int]) -> Child:
        body = json.dumps({"fork": tag, "order": dict(order)}).encode() + b"\n"
        with self._news:
            try:
                socket.send_fds(self._end, [body], list(fds))
            except OSError as error:
                raise Failed(f"the process that starts steps must answer; got {error.strerror}") from None
            self._news.wait_for(lambda: tag in self._answers or self.is_gone.is_set(), _START_S)
            answer = self._answers.pop(tag, "the process that starts steps ended or hangs")
        if isinstance(answer, str):
            raise Failed(answer, "jobs/worker.log tells more")
        return answer

    def kill(self, child: Child) -> None:
        with self._news:
            if self._children.get(child.pid) is child:
                with contextlib.suppress(OSError):  # a dead server's children die with it
                    self._end.sendall(json.dumps({"kill": child.pid}).encode() + b"\n")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._end.close()

    def _listen(self) -> None:
        text = b""
        while True:
            try:
                data = self._end.recv(65536)
            except OSError:
                data = b""
            if not data:
                break
            *lines, text = (text + data).split(b"\n")
            for line in lines:
                self._take(json.loads(line))
        with self._news:
            self.is_gone.set()
            for child in self._children.values():
                # The kernel kills a child whose server died, but not what that child had started.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.ended.set()
            self._children.clear()
            self._news.notify_all()

    def _take(self, message: Mapping[str, Any]) -> None:
        with self._news:
            if "ready" in message:
                self.is_ready.set()
            elif "forked" in message:
                child = Child(message["pid"])
                self._children[child.pid] = self._answers[message["forked"]] = child
            elif "refused" in message:
                self._answers[message["refused"]] = message["why"]
            elif (ended := self._children.pop(message["ended"], None)) is not None:
                ended.code = message["code"]
                ended.ended.set()
            self._news.notify_all()
