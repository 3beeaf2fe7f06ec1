"""The servers that others would take: each in its own environment under ``.peers``, with the models that we serve."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent
START_S = 180.0
_BOUNDARY = "b7f3c1"
NAMES = {"litserve": "LitServe", "bentoml": "BentoML", "mlserver": "MLServer", "ray": "Ray Serve"}
_KINDS = {"mlserver": ("trees",)}
"""What a peer serves, where it is not all."""


def python_of(name: str) -> Path | None:
    """The Python that has the peer; ``None`` where it is not installed."""
    found = Path(sys.executable) if name == "ray" else ROOT / ".peers" / name / "bin" / "python"
    return found if found.exists() else None


def serves(name: str, kind: str) -> bool:
    """Whether the peer is asked for this kind of request."""
    return kind in _KINDS.get(name, ("trees", "jpeg"))


def form(jpeg: bytes) -> tuple[bytes, dict[str, str]]:
    """A picture as a form's file, for servers that take no other."""
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n'
    body = head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + jpeg + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return body, {"content-type": f"multipart/form-data; boundary={_BOUNDARY}"}


@contextmanager
def running(name: str, folder: Path, core: int | None, body: bytes) -> Iterator[tuple[str, psutil.Process]]:
    """The peer's server in a process group of its own, on one core or all: its URL and first process.

    ``body`` is what it must answer before it counts as ready.
    """
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    pin = None if core is None else (lambda: os.sched_setaffinity(0, {core}))
    command = [str(python_of(name)), str(ROOT / "benchmarks" / "peers" / f"serve_{name}.py"), str(folder), str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "BENTOML_DO_NOT_TRACK": "True"}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, stdout=quiet, stderr=quiet, env=environment, preexec_fn=pin, start_new_session=True
    ) as server:
        everything = [psutil.Process(server.pid)]
        try:
            url = f"http://127.0.0.1:{port}"
            _until_ready(server, Request(f"{url}/v2/models/trees/infer", body, {"Content-Type": "application/json"}))
            everything += everything[0].children(recursive=True)
            yield url, everything[0]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            _, alive = psutil.wait_procs(everything, timeout=10)
            for process in alive:  # some leave their workers behind
                with suppress(psutil.NoSuchProcess):
                    process.kill()


def _until_ready(server: "subprocess.Popen[bytes]", request: Request) -> None:
    end = time.monotonic() + START_S
    while True:
        with suppress(URLError, OSError), urlopen(request, timeout=5) as got:
            assert b"scores" in got.read()
            return
        if time.monotonic() > end or server.poll() is not None:
            raise RuntimeError("the peer does not answer")
        time.sleep(0.3)
