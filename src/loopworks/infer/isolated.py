"""A predictor in a process of its own: a model that crashes, hangs or eats memory takes nothing with it.

Parent and child speak the inference protocol's binary form over a socket pair, so nothing is unpickled on either side.
A child that ended is started again: at once the first time, then after pauses that double.
"""

import contextlib
import importlib
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from loopworks.core import bundle as bundles
from loopworks.core import predictor as predictors
from loopworks.core.bundle import Bundle, Variant
from loopworks.core.contracts import Arrays, Predictor
from loopworks.core.errors import Busy, Failed, LoopworksError, from_json
from loopworks.core.registry import plugins
from loopworks.infer import protocol

log = logging.getLogger(__name__)
START_S = 60.0
RUN_S = 60.0
"""A run that takes longer is taken for one that hangs."""
PAUSES_S = (0.0, 0.1, 0.2, 0.4, 0.8, 2.0, 5.0, 10.0, 30.0)
"""Before the first restart, the second, and so on."""
PATIENCE_S = 1.0
"""So long a pause is waited for; during a longer one requests are refused."""
CALM = 20
"""After so many good runs, earlier ends count no more."""


class IsolatedPredictor:
    """Predicts in a child process."""

    is_shareable = False

    def __init__(self, bundle: Bundle, variant: Variant, *, memory_mb: int = 0, device: str = "cpu") -> None:
        """Start the child, which may take ``memory_mb`` (0: any amount); ``Failed`` where it does not come up."""
        self._bundle = bundle
        runtime = plugins.get(f"runtime.{variant.runtime}")
        self._about = {
            "folder": str(bundle.folder),
            "variant": variant.name,
            "runtime": [runtime.__module__, runtime.__qualname__],  # to import it alone, not all plug-ins
            "memory_mb": memory_mb,
            "device": device,
        }
        self._lock = threading.Lock()
        self._ends = 0
        self._calm = 0
        self._again_at = 0.0
        self._is_open = True
        self._child: subprocess.Popen[bytes] | None = None
        self._line: Connection | None = None
        self.device = ""
        """Where it computes."""
        self._start()

    @property
    def pid(self) -> int:
        """The child's; 0 while there is none."""
        return self._child.pid if self._child is not None else 0

    def predict(self, batch: Arrays) -> Arrays:
        """Run the batch in the child.

        Raises:
            Failed: the child ended or hung over this batch.
            Busy: it ended too often, and is started again later.
        """
        with self._lock:
            if self._child is None:
                self._restart()
            head, length = protocol.ask(batch)
            answer = self._exchange((length or 0).to_bytes(8, "little") + head, RUN_S)
            self._calm += 1
            if self._calm >= CALM:
                self._ends = 0
        size = int.from_bytes(answer[:8], "little")
        if size == 0:
            raise from_json(json.loads(answer[8:]))
        header, tail = protocol.parse(answer[8:], size)
        return protocol.request({"inputs": header["outputs"]}, tail).inputs

    def close(self) -> None:
        """End the child; calling it twice is harmless."""
        with self._lock:
            self._is_open = False
            self._stop()

    def _exchange(self, message: bytes, limit_s: float) -> bytes:
        if self._line is None:
            raise Failed("the model's process must run; it was closed")
        try:
            self._line.send_bytes(message)
            if self._line.poll(limit_s):
                return self._line.recv_bytes()
            why = f"did not answer within {limit_s:g} s"
        except (EOFError, OSError):
            why = "ended"
        raise self._ended(why)

    def _ended(self, why: str) -> Failed:
        """Clean up after a child that is of no use any more, and set when there may be the next."""
        child = self._child
        self._stop()
        if child is not None and why == "ended" and child.returncode is not None:
            code = child.returncode
            why = f"ended by {_signal(code)}" if code < 0 else f"ended with code {code}"
        self._again_at = time.monotonic() + PAUSES_S[min(self._ends, len(PAUSES_S) - 1)]
        self._ends += 1
        self._calm = 0
        log.warning("model process %s folder=%s ends=%s", why, self._bundle.folder, self._ends)
        return Failed(f"the model's process must live; it {why}", "the log says more, and it is started again")

    def _restart(self) -> None:
        if not self._is_open:
            raise Failed("the model's process must run; it was closed")
        pause = self._again_at - time.monotonic()
        if pause > PATIENCE_S:
            error = Busy(f"the model's process must stay up; it ended {self._ends} times", "try again later")
            error.retry_after_s = pause
            raise error
        time.sleep(max(0.0, pause))
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            self._child = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        self._line = Connection(ours.detach())
        told = json.loads(self._exchange(json.dumps(self._about).encode(), START_S))
        if "error" in told:
            self._stop()
            raise from_json(told)
        self.device = told["device"]

    def _stop(self) -> None:
        if self._line is not None:
            self._line.close()
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(0.2)  # it ends by itself where it can
            self._child.kill()
            self._child.wait()
        self._line = self._child = None


def _signal(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def main(number: int) -> None:
    """The child: load what the parent names, then answer until it hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    with Connection(number) as line, contextlib.suppress(EOFError, OSError):
        about = json.loads(line.recv_bytes())
        try:
            predictor, bundle = _loaded(about)
        except LoopworksError as error:
            line.send_bytes(json.dumps(error.to_json()).encode())
            return
        line.send_bytes(json.dumps({"device": str(getattr(predictor, "device", "cpu"))}).encode())
        while True:
            line.send_bytes(_answer(predictor, line.recv_bytes(), bundle))


def _loaded(about: dict[str, Any]) -> tuple[Predictor, Bundle]:
    if limit := about["memory_mb"] << 20:
        import resource  # not on every system; where it is not, asking for a limit fails, and says so

        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    bundle = bundles.read(Path(about["folder"]), verify=False)  # the parent has checked the files
    variant = bundle.variant(about["variant"])
    module, name = about["runtime"]
    kind = getattr(importlib.import_module(module), name)
    return predictors.load_by(kind, variant, bundle.folder, bundle.rule, threads=1, device=about["device"]), bundle


def _answer(predictor: Predictor, message: bytes, bundle: Bundle) -> bytes:
    try:
        asked = protocol.read(message[8:], int.from_bytes(message[:8], "little"), bundle.inputs)
        outputs = predictor.predict(asked.inputs)
        body, length = protocol.write(outputs, asked, bundle.outputs, model="", version="")
        return (length or 0).to_bytes(8, "little") + body
    except Exception as error:  # whatever it is, the parent is told and this process lives on
        known = error if isinstance(error, LoopworksError) else Failed(f"{type(error).__name__}: {error}")
        return (0).to_bytes(8, "little") + json.dumps(known.to_json()).encode()


if __name__ == "__main__":
    main(int(sys.argv[1]))
