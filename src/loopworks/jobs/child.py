"""What runs in the child process: one step, watched from inside so that it never outlives its worker."""

import contextlib
import ctypes
import fcntl
import json
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TextIO

from loopworks.core.contracts import Context
from loopworks.core.errors import Busy, Cancelled, Failed, Invalid, LoopworksError
from loopworks.core.registry import plugins
from loopworks.jobs.forks import STOP
from loopworks.jobs.job import plain

_TICK_S = 0.05
_PR_SET_PDEATHSIG = 1
_TAKE_OVER_S = 30.0


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the thread that forked it ends (Linux), and check it has not yet."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main(order: Mapping[str, str], parent: int, events: int, control: int, output: int) -> NoReturn:
    """Run the ordered step and leave; called right after the fork, in the only thread.

    Args:
        order: ``workspace``, ``id``: where ``jobs/ID/job.json`` tells step and parameters.
        parent: process id of the fork server.
        events: takes JSON lines: progress, metrics, and last what came of it.
        control: a byte asks the step to stop; its end means that the worker is gone.
        output: takes the place of stdout and stderr, also for C code.
    """
    os.setsid()  # a group of its own, so that whatever the step starts can be ended with it
    die_with_parent(parent)
    _prefer_in_memory_shortage()
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(output)
    for descriptor in (events, control):
        os.set_inheritable(descriptor, False)  # programs that the step starts need not hold our pipes
    # New objects, because the server's were made for a file, where a write may want to seek.
    sys.stdout, sys.stderr = _lines_to(1), _lines_to(2)
    _log_to_stderr()
    line = _Line(events, control)
    try:
        end = _run(order, line)
    except Cancelled as error:
        end = {"kind": "cancelled", "error": error.to_json()}
    except LoopworksError as error:
        end = {"kind": "failed", "error": error.to_json()}
    except Exception as error:  # the top of the child: whatever a step raises is a failed job, told in one sentence
        traceback.print_exc()
        said = traceback.format_exception_only(error)[-1].strip()
        end = {
            "kind": "failed",
            "error": Failed(f"the step raised {said}", "the job's log has the traceback").to_json(),
        }
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    line.close(end)
    os._exit(0)  # not sys.exit: the fork server's stack and its atexit handlers are not ours to unwind


def _run(order: Mapping[str, str], line: "_Line") -> dict[str, Any]:
    folder = Path(order["workspace"]) / "jobs" / order["id"]
    spec = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    with (folder / "run.lock").open("w", encoding="ascii") as lock:
        _wait_for(lock.fileno(), order["id"])
        step = plugins.get(f"job.{spec['step']}")
        scratch = folder / "scratch"
        scratch.mkdir(exist_ok=True)
        seed = spec["params"].get("seed", 0)
        context = Context(
            seed=seed if isinstance(seed, int) else 0,
            scratch=scratch,
            report=line.report,
            stopped=line.stopped.is_set,
            metric=line.metric,
            job=order["id"],
        )
        result = step(order["workspace"], spec["params"], context)
    try:
        plain(result, "result")
    except Invalid as error:
        raise Failed(f"step {spec['step']!r} gave no plain JSON: {error.message}") from None
    return {"kind": "done", "result": result}


def _wait_for(lock: int, job_id: str) -> None:
    """Let the attempt before this one be gone: two writers would spoil the checkpoints."""
    deadline = time.monotonic() + _TAKE_OVER_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Busy(f"job {job_id} must be run by one process; got another that does not end") from None
            time.sleep(0.02)
        else:
            return


def _lines_to(fd: int) -> TextIO:
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _prefer_in_memory_shortage() -> None:
    """Let the kernel pick this process, not the worker or the user's, when memory runs out."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("500")


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("loopworks").setLevel(logging.INFO)
    logging.captureWarnings(capture=True)


class _Line:
    """The child's end of the talk with its worker."""

    def __init__(self, events: int, control: int) -> None:
        self.stopped = threading.Event()
        self._events = events
        self._control = control
        self._lock = threading.Lock()
        self._waiting: dict[str, Any] | None = None
        self._sent_at = 0.0
        threading.Thread(target=self._watch, name="job-control", daemon=True).start()

    def report(self, share: float, text: str) -> None:
        """Tell progress; of a flood only the latest goes out, every 50 ms, by ourselves or by the watching thread."""
        with self._lock:
            self._waiting = {"kind": "progress", "share": min(max(float(share), 0.0), 1.0), "text": str(text)}
            if time.monotonic() - self._sent_at >= _TICK_S:
                self._flush()

    def metric(self, name: str, step: int, value: float) -> None:
        """Tell one point of a curve; none is left out."""
        with self._lock:
            self._send({"kind": "metric", "name": str(name), "step": int(step), "value": float(value)})

    def close(self, end: Mapping[str, Any]) -> None:
        """Tell the end; nothing may follow."""
        with self._lock:
            self._flush()
            self._send(end)

    def _flush(self) -> None:
        if self._waiting is not None:
            self._send(self._waiting)
            self._waiting, self._sent_at = None, time.monotonic()

    def _send(self, event: Mapping[str, Any]) -> None:
        data = json.dumps(event, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        while data:
            data = data[os.write(self._events, data) :]

    def _watch(self) -> None:
        while True:
            ready, _, _ = select.select([self._control], [], [], _TICK_S if self._waiting else 0.25)
            if ready:
                if os.read(self._control, 1) != STOP:
                    os.killpg(0, signal.SIGKILL)  # the worker is gone: whoever takes the job over must find it free
                self.stopped.set()
            with self._lock:
                self._flush()
