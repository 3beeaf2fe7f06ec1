"""Whatever clients send and models do: one clear answer, and all others go on."""

import contextlib
import gzip
import json
import os
import shutil
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.infer import small
from tests.server import raw
from tests.server.conftest import register
from tests.server.raw import INFER, Line, body, head, post

import loopworks as lw
from loopworks.core.contracts import Arrays
from loopworks.core.registry import plugins
from loopworks.core.settings import LimitSettings
from loopworks.infer import protocol
from loopworks.infer.isolated import IsolatedPredictor
from loopworks.server import connection, guard
from loopworks.server.run import ServerThread

COLORS = "/v2/models/colors/infer"
INDEX = "/v2/repository/index"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, colors: Any) -> Path:
    root = tmp_path_factory.mktemp("faults")
    with lw.open(root / "space") as made:
        made.deploy(register(made, small.linear(root / "one"), "linear"), name="linear")
        made.deploy(register(made, colors.write(root / "colors"), "colors"), name="colors")
    return root / "space"


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerThread]:
    with lw.open(folder, create=False) as space, ServerThread(space) as made:
        yield made


@pytest.fixture
def line(server: ServerThread) -> Iterator[Line]:
    with raw.line(server.url) as made:
        yield made


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Iterator[lw.Workspace]:
    """A workspace that the test may serve by other settings, or damage."""
    shutil.copytree(folder, tmp_path / "space")
    with lw.open(tmp_path / "space", create=False) as made:
        yield made


def until(what: Callable[[], bool], message: str) -> None:
    end = time.monotonic() + raw.PATIENCE_S
    while not what():
        assert time.monotonic() < end, message
        time.sleep(0.005)


def lives(server: ServerThread) -> bool:
    with raw.line(server.url) as line:
        line.send(post(body()))
        return line.read().status == 200


def tensor(**changed: Any) -> bytes:
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4], **changed}
    return json.dumps({"inputs": [entry]}).encode()


# ---- requests


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tensor(shape=[1, 3], data=[1, 2, 3]), "input x shape must be [-1, 4] (-1: any from 1); got [1, 3]"),
        (tensor(shape=[4]), "input x shape must be [-1, 4]"),
        (tensor(shape=[0, 4], data=[]), "got [0, 4]"),
        (tensor(shape=[-1, 4]), "input x shape must be a list of at most 16 whole numbers"),
        (tensor(shape=[1 << 40, 1 << 40]), "input x shape must be a list of at most 16 whole numbers in 0..2147483647"),
        (tensor(shape=[1 << 30, 1 << 30]), f"input x data must be {1 << 60} elements, as its shape says; got 4"),
        (tensor(shape=[1] * 17), "at most 16"),
        (tensor(data=[1, 2, 3]), "input x data must be 4 elements"),
        (tensor(datatype="FP64"), "input x datatype must be FP32; got FP64"),
        (tensor(datatype="FP31"), "input x datatype must be one of BOOL"),
        (tensor(name="y"), "inputs must be among x; got y"),
        (tensor(data=[1, 2, None, 4]), "input x data must be numbers for FP32; got None"),
        (tensor(data=[1, 2, True, 4]), "input x data must be numbers for FP32; got True"),
        (tensor(data=[1, 2, "3", 4]), "input x data must be numbers for FP32; got '3'"),
        (tensor(data=[1, 2, 1e39, 4]), "input x data must be within the range of FP32"),
        (tensor(data=[1, 2, float("nan"), 4]), "request body must be JSON in UTF-8"),
        (tensor(data=[1, 2, float("inf"), 4]), "request body must be JSON in UTF-8"),
        (b"\xff\xfe", "request body must be JSON in UTF-8"),
        (b"[" * 100_000, "request body must be JSON in UTF-8"),
        (b'{"inputs": 3}', "inputs must be a list with at least one tensor"),
        (b"<xml/>", "request body must be JSON in UTF-8"),
    ],
)
def test_a_request_that_is_wrong_is_told_what_and_where(line: Line, content: bytes, words: str) -> None:
    line.send(post(content), post(body()))
    got = line.read()
    assert got.status == 400
    assert words in got.json["error"]
    assert line.read().status == 200


@pytest.mark.parametrize("cut", [1, 3, 15])
def test_a_binary_part_that_is_cut_off_is_refused(line: Line, cut: int) -> None:
    content, length = protocol.ask({"x": np.ones((1, 4), np.float32)})
    headers = {"inference-header-content-length": str(length)}
    line.send(post(content[:-cut], headers=headers), post(content, headers=headers))
    got = line.read()
    assert got.status == 400
    assert "binary_data_size must be at most" in got.json["error"]
    assert line.read().status == 200


def test_numbers_that_json_does_not_have_come_back_as_an_error_or_as_bytes(line: Line) -> None:
    content, length = protocol.ask({"x": np.array([[np.nan, 0, 0, 0]], np.float32)})
    header = json.loads(content[:length])
    told = {"inference-header-content-length": str(length)}
    line.send(post(content, headers=told))
    got = line.read()
    assert got.status == 200
    assert np.isnan(np.frombuffer(got.body[int(got.headers["inference-header-content-length"]) :], np.float32)).all()
    header["parameters"] = {}
    text = json.dumps(header).encode()
    line.send(post(text + content[length:], headers={"inference-header-content-length": str(len(text))}))
    got = line.read()
    assert (got.status, "ask for binary_data" in got.json["error"]) == (400, True)


def test_a_bomb_and_a_hundred_megabytes_are_refused_early(own: lw.Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = own.settings.model_copy(update={"max_body_bytes": 1 << 20})
    monkeypatch.setattr(type(own), "settings", property(lambda self: settings))
    bomb = gzip.compress(b" " * (50 << 20))
    with ServerThread(own) as server:
        began = time.process_time()
        for path in (INFER, "/predict/colors"):
            with raw.line(server.url) as line:
                line.send(head(100 << 20, path=path, headers={"content-type": "application/json"}))
                assert line.read().status == 413  # nothing of it was sent
            with raw.line(server.url) as line:
                line.send(post(bomb, path=path, headers={"content-encoding": "gzip"}))
                got = line.read()
                assert (got.status, "at most 1048576 bytes" in str(got.json["error"])) == (413, True)
        assert time.process_time() - began < 5
        assert lives(server)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"\xff\xd8\xff\xe0 no picture follows", "image/jpeg", 422),
        (b"", "image/jpeg", 422),
        (b"age,sum\n1,2\n", "text/csv", 422),
        (b"{}", "application/xml", 422),
        (b"{", "application/json", 422),
    ],
)
def test_what_is_no_picture_is_refused(line: Line, content: bytes, kind: str, status: int) -> None:
    line.send(post(content, path="/predict/colors", headers={"content-type": kind}))
    got = line.read()
    assert (got.status, got.json["error"]["code"]) == (status, "invalid")


def test_a_jpeg_cut_off_in_the_middle_is_refused(line: Line) -> None:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(out, "JPEG")
    for content, status in ((out.getvalue(), 200), (out.getvalue()[:-400], 422)):
        line.send(post(content, path="/predict/colors", headers={"content-type": "image/jpeg"}))
        assert line.read().status == status


# ---- connections


def trickle(line: Line) -> None:
    """A byte now and then: none buys more time."""
    for _ in range(400):
        time.sleep(0.01)
        line.send(b"x")


def test_who_sends_a_byte_now_and_then_is_cut_off(server: ServerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.3)
    monkeypatch.setattr(guard, "STALL_S", 0.3)
    for start in (f"POST {INFER} HTTP/1.1\r\nhost: 127.0.0.1\r\nx: ".encode(), b"GET /api/he"):
        with raw.line(server.url) as line:
            line.send(start)
            with pytest.raises(OSError):
                trickle(line)
    with raw.line(server.url) as line:
        line.send(head(1000), b"{")
        assert line.read().status == 504
        assert line.is_closed()
    assert lives(server)


def test_500_idle_connections_hold_nobody_up(server: ServerThread) -> None:
    with contextlib.ExitStack() as opened:
        lines = [opened.enter_context(raw.line(server.url)) for _ in range(500)]
        for at in range(0, 500, 50):
            lines[at].send(post(body()))
            assert lines[at].read().status == 200
        began = time.monotonic()
        assert lives(server)
        assert time.monotonic() - began < 5


class Gated:
    """A predictor that waits at a gate, fails on 255 and gives each row's first number back."""

    gate = threading.Event()
    entered = threading.Event()
    seen: list[int] = []

    def load(self, path: Path, *, threads: int, precision: str) -> "Gated":
        return self

    def predict(self, batch: Arrays) -> Arrays:
        self.entered.set()
        assert self.gate.wait(raw.PATIENCE_S)
        first = batch["image"][:, 0, 0, 0]
        if (first == 255).any():
            raise RuntimeError("poisoned")
        self.seen.extend(first.tolist())
        return {"scores": np.repeat(first[:, None] / 256, 3, axis=1).astype(np.float32)}

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def gated(own: lw.Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerThread]:
    """A server whose models run on the gated predictor, with one worker."""
    plugins.load()
    monkeypatch.setitem(plugins._found, "runtime.onnxruntime", Gated)
    settings = own.settings.model_copy(update={"threads": 1})
    monkeypatch.setattr(type(own), "settings", property(lambda self: settings))
    Gated.gate.set()
    own.deploy(own.deployments()[0].model, name="colors")
    with ServerThread(own) as server:
        Gated.seen.clear()
        yield server
        Gated.gate.set()


def pixels(value: int) -> bytes:
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [value] * 192}
    return post(json.dumps({"inputs": [tensor]}).encode(), path=COLORS)


def held(server: ServerThread, values: list[int]) -> list[Line]:
    """One request that the only worker is busy with, and others that wait for it."""
    Gated.gate.clear()
    Gated.entered.clear()
    Gated.seen.clear()
    lines = [Line(server.url) for _ in values]
    lines[0].send(pixels(values[0]))
    assert Gated.entered.wait(raw.PATIENCE_S)
    for other, value in zip(lines[1:], values[1:], strict=True):
        other.send(pixels(value))
    model = server.serving.engine.model("colors")
    until(lambda: model.waiting == len(values) - 1, "the others must wait")
    return lines


def test_a_poisoned_item_fails_alone(gated: ServerThread) -> None:
    lines = held(gated, [1, 2, 255, 4])
    Gated.gate.set()
    answers = [line.read() for line in lines]
    assert [got.status for got in answers] == [200, 200, 500, 200]
    assert "poisoned" in answers[2].json["error"]
    assert answers[3].json["outputs"][0]["data"][0] == pytest.approx(4 / 256)
    for line in lines:
        line.close()


def test_who_leaves_before_the_batch_or_in_its_middle_disturbs_nobody(gated: ServerThread) -> None:
    lines = held(gated, [1, 2, 3, 4])
    for gone in (lines[0], lines[2]):  # one is being computed, one waits
        gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
    until(lambda: _cancelled(gated) == 2, "both must be noticed")
    Gated.gate.set()
    for line in (lines[1], lines[3]):
        assert line.read().status == 200
        line.close()
    assert Gated.seen == [1, 2, 4]


def _cancelled(server: ServerThread) -> float:
    labels = {"deployment": "colors", "outcome": "cancelled"}
    return server.serving.metrics.registry.get_sample_value("loopworks_requests_total", labels) or 0.0


def test_a_deadline_in_a_header_is_kept(gated: ServerThread) -> None:
    (first,) = held(gated, [1])
    with raw.line(gated.url) as line:
        asked = pixels(2).replace(b"host:", b"inference-timeout-ms: 30\r\nhost:")
        line.send(asked)
        got = line.read()
        assert (got.status, "within 0.03 s" in got.json["error"]) == (504, True)
    Gated.gate.set()
    assert first.read().status == 200
    first.close()
    until(lambda: Gated.seen == [1], "the one that was too late is not computed")


# ---- models


def test_a_damaged_model_file_stops_no_other_model(own: lw.Workspace, tmp_path: Path) -> None:
    bad = small.linear(tmp_path / "bad", 3 * small.WEIGHTS)  # equal files are one on disk
    own.deploy(register(own, bad, "bad"), name="bad")
    for path in Path(own.bundle("bad").folder).glob("*.onnx"):
        path.chmod(0o644)
        path.write_bytes(b"rubbish")
    with ServerThread(own) as server, raw.line(server.url) as line:
        assert lives(server)
        line.send(post(body(), path="/v2/models/bad/infer"))
        got = line.read()
        assert (got.status, "could not be loaded" in got.json["error"]) == (404, True)
        assert "SHA-256" in server.serving.problem("bad")
        line.send(head(method="GET", path="/v2/health/ready"))
        got = line.read()
        assert (got.status, got.json) == (503, {"ready": False})
        own.undeploy("bad")
        server.serving.sync()
        line.send(head(method="GET", path="/v2/health/ready"))
        assert line.read().json == {"ready": True}


def test_a_model_that_crashes_in_its_own_process_takes_nobody_along(
    own: lw.Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = own.settings.model_copy(update={"threads": 1, "limits_of": {"colors": LimitSettings(isolation="process")}})
    monkeypatch.setattr(type(own), "settings", property(lambda self: apart))
    with ServerThread(own) as server, raw.line(server.url) as line:
        (predictor,) = server.serving.engine.model("colors")._predictors
        assert isinstance(predictor, IsolatedPredictor)
        line.send(pixels(9))
        assert line.read().status == 200
        os.kill(predictor.pid, signal.SIGKILL)
        line.send(pixels(9))
        got = line.read()
        assert (got.status, "ended by SIGKILL" in got.json["error"]) == (500, True)
        assert lives(server)
        line.send(pixels(9))
        assert line.read().status == 200
        pid = predictor.pid
    until(lambda: not Path(f"/proc/{pid}").exists(), "nothing stays behind")


def test_a_model_that_made_room_comes_back_when_asked_over_http(
    own: lw.Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ServerThread(own) as server:
        engine = server.serving.engine
        large = max(served.memory_bytes for served in engine.models())
        monkeypatch.setattr(engine, "_memory_bytes", large)
        engine.model("colors").memory_bytes = large  # so that one of the two has room
        server.serving.load("linear")
        assert engine.is_parked("colors")
        with raw.line(server.url) as line:
            line.send(head(method="GET", path="/v2/models/colors/ready") + head(method="POST", path=INDEX))
            assert line.read().status == 200
            assert {one["name"]: one["state"] for one in line.read().json} == {"colors": "READY", "linear": "READY"}
            assert engine.is_parked("colors")  # whoever only looks loads nothing
            line.send(head(method="GET", path="/v2/models/colors") + head(method="GET", path="/v2/models/colors/ready"))
            assert line.read().json["name"] == "colors"
            assert line.read().status == 200
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(lambda _: _answers(server, pixels(3)), range(8)))


def _answers(server: ServerThread, asked: bytes) -> bool:
    with raw.line(server.url) as line:
        line.send(asked)
        return line.read().status == 200
