"""A small process that has imported what steps need and forks one child per attempt.

The worker has threads (DBOS brings them) and must not fork; this process has none. It is two processes: the *base*
knows the plug-ins and can fork at once, the *warm* one is forked from it and goes on to import torch and the like,
which takes some seconds; the worker uses it from the moment that it says it is ready. Not multiprocessing's fork
server: that one runs the user's main script again, and hides how a child ended.

Talk, over a socket pair: ``{"fork": TAG, "order": {...}}`` with three descriptors, ``{"kill": PID}``; answers
``{"ready": N}``, ``{"forked": TAG, "pid": PID}``, ``{"refused": TAG, "why": TEXT}``, ``{"ended": PID, "code": N}``.
"""

import array
import contextlib
import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import sys
import traceback
import warnings
from collections import deque
from typing import Any, NoReturn

from loopworks.core.registry import plugins
from loopworks.core.settings import quiet_libraries
from loopworks.jobs import child

_FDS = 3


def main(base_fd: int, warm_fd: int) -> None:
    """Be the fork server; the first line on ``base_fd`` says what to import."""
    base, warm = socket.socket(fileno=base_fd), socket.socket(fileno=warm_fd)
    setup = json.loads(_first_line(base))
    sys.path[:] = setup["sys_path"]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet_libraries()
    for name in setup["preload"]:
        importlib.import_module(name)
    plugins.load()
    me = os.getpid()
    if os.fork() == 0:
        child.die_with_parent(me)
        base.close()
        _import(setup["warm"])
        _Server(warm).serve()
    warm.close()
    _Server(base).serve()


def _first_line(end: socket.socket) -> bytes:
    text = b""
    while not text.endswith(b"\n"):
        piece = end.recv(1)  # byte by byte: what follows may carry descriptors
        if not piece:
            os._exit(0)
        text += piece
    return text


def _import(names: list[str]) -> None:
    """Import what is installed; a package that cannot be imported is the step's to complain about."""
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if importlib.util.find_spec(name.partition(".")[0]) is not None:
                    importlib.import_module(name)
        except Exception:  # a broken outside package may raise anything at import
            traceback.print_exc()


class _Server:
    """One process that forks on request and tells how its children end."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._children: set[int] = set()
        self._fds: deque[int] = deque()
        self._text = b""
        self._wake, self._wake_in = os.pipe()
        os.set_blocking(self._wake_in, False)

    def serve(self) -> NoReturn:
        """Answer until the worker is gone, then end every child and leave."""
        signal.signal(signal.SIGCHLD, _noted)
        signal.set_wakeup_fd(self._wake_in, warn_on_full_buffer=False)
        gc.collect()
        gc.freeze()  # the collector of a child would otherwise copy every page it looks at
        with contextlib.suppress(OSError):
            self._tell({"ready": os.getpid()})
            self._reap()
            while True:
                ready, _, _ = select.select([self._end.fileno(), self._wake], [], [])
                if self._wake in ready:
                    os.read(self._wake, 512)
                    self._reap()
                if self._end.fileno() in ready and not self._hear():
                    break
        for pid in self._children:
            _kill_group(pid)
        os._exit(0)

    def _hear(self) -> bool:
        data, ancillary, _, _ = self._end.recvmsg(65536, socket.CMSG_SPACE(_FDS * 4))
        for level, kind, body in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(body[: len(body) - len(body) % fds.itemsize])
                self._fds.extend(fds)
        if not data:
            return False
        *lines, self._text = (self._text + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "fork" in request:
                self._fork(request)
            elif request["kill"] in self._children:
                _kill_group(request["kill"])
        return True

    def _fork(self, request: dict[str, Any]) -> None:
        fds = [self._fds.popleft() for _ in range(_FDS)]
        me = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._tell({"refused": request["fork"], "why": f"no process could be started: {error.strerror}"})
            pid = -1
        if pid == 0:
            try:
                self._leave()
                child.main(request["order"], me, *fds)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)  # never back into the server's loop, which is the parent's
        for fd in fds:
            os.close(fd)
        if pid > 0:
            self._children.add(pid)
            self._tell({"forked": request["fork"], "pid": pid})

    def _leave(self) -> None:
        """In the child: forget that this was a server."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._end.close()
        os.close(self._wake)
        os.close(self._wake_in)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._children:
                self._children.discard(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)  # what the step started ends with it
                self._tell({"ended": pid, "code": os.waitstatus_to_exitcode(status)})

    def _tell(self, message: dict[str, Any]) -> None:
        self._end.sendall(json.dumps(message).encode() + b"\n")


def _noted(*_: object) -> None:
    """Let SIGCHLD write to the wake-up descriptor; the default handler would not."""


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # it may not have made its group yet
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
