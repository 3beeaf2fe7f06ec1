"""Starting, stopping, and clients that leave: over real sockets, and nothing stays behind."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.server import raw

import loopworks as lw
from loopworks.core.contracts import Arrays
from loopworks.core.errors import Conflict, Denied, Invalid
from loopworks.core.registry import plugins
from loopworks.server import connection, run
from loopworks.server.run import ServerThread, serve

PATIENCE_S = 20.0
BODY = json.dumps({
    "inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [9] * 192}]
}).encode()


def connect(url: str) -> HTTPConnection:
    return HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_S)


def get(url: str, path: str) -> Any:
    line = connect(url)
    try:
        line.request("GET", path)
        return json.loads(line.getresponse().read())
    finally:
        line.close()


def until(what: Any, message: str) -> None:
    """Wait for something that other threads bring about."""
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end, message
        time.sleep(0.005)


def test_nothing_is_left_when_it_has_stopped(space: lw.Workspace) -> None:
    threads = set(threading.enumerate())
    sockets = len(psutil.Process().net_connections())
    for _ in range(2):
        with ServerThread(space) as server:
            assert get(server.url, "/v2/health/ready") == {"ready": True}
            kept = connect(server.url)  # an idle connection must not hold the server up
            kept.request("GET", "/api/health")
            kept.getresponse().read()
        kept.close()
    left = [t.name for t in set(threading.enumerate()) - threads if not t.name.startswith("AnyIO worker")]
    assert left == []
    assert len(psutil.Process().net_connections()) == sockets


def test_two_servers_of_one_workspace_do_not_disturb_each_other(space: lw.Workspace) -> None:
    with ServerThread(space) as first, ServerThread(space) as second:
        assert first.url != second.url
        assert get(first.url, "/api/workspace") == get(second.url, "/api/workspace")


def test_a_port_in_use_is_said(space: lw.Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Conflict, match=f"port {port} of 127.0.0.1 must be free") as caught:
            serve(space, port=port)
    assert caught.value.hint == "--port 0 takes a free one"
    with pytest.raises(Conflict, match=f"port {port} of 127.0.0.1 must be free"):
        serve(space, port=port, grpc_port=port)  # taken after it was found free


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_the_world_is_let_in_with_a_token_only(space: lw.Workspace, host: str) -> None:
    with pytest.raises(Denied, match="must have a token; got none"):
        serve(space, host=host, port=0)


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_another_machine_is_refused(space: lw.Workspace, monkeypatch: Any, host: str) -> None:
    settings = space.settings.model_copy(update={"token": "t"})
    monkeypatch.setattr(type(space), "settings", property(lambda self: settings))
    with pytest.raises(Invalid, match="host must be an address of this machine"):
        serve(space, host=host, port=0)


@pytest.mark.parametrize(
    ("soft", "hard", "asked"), [(1024, 4096, 4096), (1024, -1, 65_536), (70_000, 80_000, 0), (-1, -1, 0)]
)
def test_the_server_asks_for_the_sockets_that_it_may_have(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, asked: int
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr("resource.getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr("resource.setrlimit", lambda _, pair: given.append(pair))
    run._allow_connections()
    assert given == ([(asked, hard)] if asked else [])


SCRIPT = """
import signal
import sys
import loopworks as lw
from loopworks.server import connection, run
from loopworks.server.run import serve

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests by nohup ignores it

with lw.open(sys.argv[1], create=False) as space:
    serve(space, port=0, ready=lambda url: print(url, flush=True))
print("closed", flush=True)
"""


@pytest.fixture
def process(space: lw.Workspace) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-W", "error", "-c", SCRIPT, str(space.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        yield running
        running.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_order(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    url = process.stdout.readline().strip()
    assert get(url, "/v2/models/colors/ready") == {"name": "colors", "ready": True}
    os.kill(process.pid, number)
    assert process.wait(PATIENCE_S) == 0
    assert process.stdout.read() == "closed\n"
    assert process.stderr.read() == ""


class Slow:
    """A predictor that waits at a gate."""

    gate = threading.Event()
    seen: list[int] = []
    entered = threading.Event()

    def load(self, path: Path, *, threads: int, precision: str) -> "Slow":
        return self

    def predict(self, batch: Arrays) -> Arrays:
        self.entered.set()
        assert self.gate.wait(PATIENCE_S)
        x = batch["image"]
        self.seen.extend(x[:, 0, 0, 0].tolist())
        return {"scores": np.full((len(x), 3), 1 / 3, np.float32)}

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def slow(space: lw.Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Slow]]:
    """The deployment runs on the slow predictor, with one worker."""
    plugins.load()
    monkeypatch.setitem(plugins._found, "runtime.onnxruntime", Slow)
    one = space.settings.model_copy(update={"threads": 1})
    monkeypatch.setattr(type(space), "settings", property(lambda self: one))
    Slow.gate.set()
    Slow.seen.clear()
    yield Slow
    Slow.gate.set()


def post(url: str, body: bytes = BODY) -> HTTPConnection:
    line = connect(url)
    line.request("POST", "/v2/models/colors/infer", body)
    return line


def test_a_client_that_leaves_takes_its_request_along(space: lw.Workspace, slow: type[Slow]) -> None:
    with ServerThread(space) as server:
        engine = server.serving.engine
        slow.gate.clear()
        slow.entered.clear()
        slow.seen.clear()
        first = post(server.url)
        assert slow.entered.wait(PATIENCE_S)
        leaving = post(server.url, BODY.replace(b"9", b"7"))
        staying = post(server.url, BODY.replace(b"9", b"5"))
        until(lambda: engine.model("colors").waiting == 2, "both must wait")
        leaving.close()
        until(lambda: 'outcome="cancelled"' in _metrics(server.url), "the one that left must be noticed")
        slow.gate.set()
        for line in (first, staying):
            assert line.getresponse().status == 200
            line.close()
    assert slow.seen == [9, 5]


def _metrics(url: str) -> str:
    line = connect(url)
    line.request("GET", "/metrics")
    text = line.getresponse().read().decode()
    line.close()
    return text


def test_a_request_that_waits_too_long_is_answered_with_504(space: lw.Workspace, slow: type[Slow]) -> None:
    with ServerThread(space) as server:
        slow.gate.clear()
        hurried = json.dumps({**json.loads(BODY), "parameters": {"timeout": 20_000}}).encode()
        line = post(server.url, hurried)
        answer = line.getresponse()
        assert answer.status == 504
        assert "within 0.02 s" in json.loads(answer.read())["error"]
        line.close()
        slow.gate.set()


def test_a_full_queue_says_when_to_come_back(space: lw.Workspace, slow: type[Slow]) -> None:
    with ServerThread(space) as server:
        served = server.serving.engine.model("colors")
        served._max_queue = 1
        slow.gate.clear()
        slow.entered.clear()
        lines = [post(server.url)]
        assert slow.entered.wait(PATIENCE_S)
        lines.append(post(server.url))
        until(lambda: served.waiting == 1, "one must wait")
        refused = post(server.url)
        answer = refused.getresponse()
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        refused.close()
        slow.gate.set()
        for line in lines:
            assert line.getresponse().status == 200
            line.close()


def test_what_is_under_way_is_answered_before_it_stops(space: lw.Workspace, slow: type[Slow]) -> None:
    answers: list[int] = []
    with ServerThread(space) as server:
        slow.gate.clear()
        slow.entered.clear()
        line = post(server.url)
        assert slow.entered.wait(PATIENCE_S)
        opening = threading.Timer(0.2, slow.gate.set)
        opening.start()
        reading = threading.Thread(target=lambda: answers.append(line.getresponse().status))
        reading.start()
    reading.join(PATIENCE_S)
    opening.join()
    line.close()
    assert answers == [200]


def test_what_is_on_its_way_when_it_stops_is_answered_too(
    space: lw.Workspace, slow: type[Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loopworks.server.parting.DRAIN_S", PATIENCE_S)
    with ExitStack() as opened:
        server = opened.enter_context(ServerThread(space))
        idle, busy = (opened.enter_context(raw.line(server.url)) for _ in range(2))
        asked = raw.post(BODY, path="/v2/models/colors/infer")
        idle.send(asked)
        assert idle.read().status == 200
        slow.gate.clear()
        slow.entered.clear()
        busy.send(asked * 3)
        assert slow.entered.wait(PATIENCE_S)
        stopping = threading.Thread(target=server.__exit__, args=(None, None, None))
        stopping.start()
        assert server.serving.stopping.wait(PATIENCE_S)
        slow.gate.set()
        assert [busy.read().status for _ in range(3)] == [200] * 3
        assert busy.is_closed()
        is_last = False
        while not is_last:
            idle.send(asked)
            got = idle.read()
            assert got.status == 200
            is_last = got.headers.get("connection") == "close"
        assert idle.is_closed()
        stopping.join(PATIENCE_S)
        assert not stopping.is_alive()


def test_a_stream_does_not_hold_the_server_up(space: lw.Workspace, jobs: Any) -> None:
    assert not jobs.script[0].is_ended
    with ServerThread(space) as server:
        line = connect(server.url)
        line.request("GET", "/api/jobs/j1/events")
        stream = line.getresponse()
        assert stream.readline().startswith(b"data: ")
        began = time.monotonic()
    took = time.monotonic() - began
    line.close()
    assert took < 5


def test_the_asynchronous_client_works_too(space: lw.Workspace, colors: Any) -> None:
    triton = pytest.importorskip("tritonclient.http.aio", reason="needs the [demo] extra")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    tensor = triton.InferInput("image", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)

    async def ask(url: str) -> Any:
        async with triton.InferenceServerClient(url.removeprefix("http://")) as client:
            assert await client.is_server_ready()
            both = await asyncio.gather(*(client.infer("colors", [tensor]) for _ in range(8)))
            return [found.as_numpy("scores") for found in both]

    with ServerThread(space) as server:
        for found in asyncio.run(ask(server.url)):
            np.testing.assert_allclose(found, colors.scores(pixels), atol=1e-6)


@pytest.mark.parametrize("sent", [b"", b"GET /api/health HT", b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "])
def test_a_client_that_dawdles_over_its_headers_is_dropped(
    space: lw.Workspace, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.05)
    with ServerThread(space) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as line:
            line.sendall(sent)
            assert line.recv(100) == b""
        kept = connect(server.url)  # a whole request is not hurried, nor is the pause before the next
        for _ in range(2):
            kept.request("GET", "/api/health")
            assert kept.getresponse().read() == b'{"status":"ok"}'
            time.sleep(0.1)
        kept.close()


def test_broken_http_gets_400_and_the_server_lives(space: lw.Workspace) -> None:
    with ServerThread(space) as server:
        host, port = server.url.removeprefix("http://").split(":")
        for junk in (
            b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST /v2 HTTP/1.1\r\nHost: [\r\n\r\n",
        ):
            with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as line:
                line.sendall(junk)
                line.shutdown(socket.SHUT_WR)
                assert line.makefile("rb").readline().split()[1:2] in ([b"400"], [b"403"], [b"200"], [])
        assert get(server.url, "/api/health") == {"status": "ok"}
