"""Inference requests on a socket: in order, within limits, and with the same answers as by ASGI."""

import contextlib
import gzip
import json
import shutil
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from starlette.testclient import TestClient
from tests.infer import small
from tests.server import raw
from tests.server.conftest import register
from tests.server.raw import INFER, Line, body, head, post

import loopworks as lw
from loopworks.infer import light, protocol
from loopworks.server import connection, guard, parting
from loopworks.server.app import create_app
from loopworks.server.connection import _route
from loopworks.server.run import ServerThread


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("linear")
    with lw.open(root / "space") as made:
        made.deploy(register(made, small.linear(root / "one"), "linear"), name="linear")
        made.deploy(register(made, small.rows(root / "rows"), "rows"), name="rows")
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
    """A workspace that the test may serve by other settings."""
    shutil.copytree(folder, tmp_path / "space")
    with lw.open(tmp_path / "space", create=False) as made:
        yield made


def scores(x: list[float]) -> Any:
    return (np.array(x, np.float32).reshape(-1, 4) @ small.WEIGHTS).ravel().tolist()


def test_the_models_are_light(server: ServerThread) -> None:
    for name in ("linear", "rows"):
        found = server.serving.engine.model(name).light
        assert found is not None
        assert found.rows >= 8


def test_an_answer_and_its_headers(line: Line) -> None:
    line.send(post(body(id="42")))
    got = line.read()
    assert got.status == 200
    assert got.headers["content-type"] == "application/json"
    assert "date" in got.headers
    assert got.json == {
        "model_name": "linear",
        "model_version": "1",
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 3], "data": scores([1, 2, 3, 4])}],
        "id": "42",
    }


def test_requests_sent_at_once_are_answered_in_order(line: Line) -> None:
    """Of both kinds: past ASGI and by it, light and refused, with and without a body."""
    asked: list[bytes] = []
    for i in range(40):
        asked += [
            post(body([i, 0, 0, 0])),
            head(method="GET", path="/api/health"),
            post(b"{}", headers={"x": str(i)}),
            post(b"{}", path="/v2/models/none/infer"),
            head(method="GET", path="/v2/models/linear/ready"),
        ]
    line.send(b"".join(asked))
    for i in range(40):
        answers = [line.read() for _ in range(5)]
        assert [got.status for got in answers] == [200, 200, 400, 404, 200]
        assert answers[0].json["outputs"][0]["data"] == scores([i, 0, 0, 0])
        assert answers[1].json == {"status": "ok"}
        assert answers[4].json == {"name": "linear", "ready": True}


def test_a_thousand_refusals_in_one_packet_do_not_nest(line: Line) -> None:
    line.send(post(b"", path="/v2/models/no/infer") * 1500)
    assert {line.read().status for _ in range(1500)} == {404}


@pytest.mark.parametrize("size", [1, 7, 64])
def test_a_body_in_pieces(line: Line, size: int) -> None:
    whole = post(body())
    line.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line.send(*(whole[at : at + size] for at in range(0, len(whole), size)))
    assert line.read().status == 200


def test_a_chunked_body(line: Line) -> None:
    content = body()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (content[:5], content[5:]))
    line.send(head(headers={"transfer-encoding": "chunked"}), chunks, b"0\r\n\r\n", post(content))
    assert [line.read().status for _ in range(2)] == [200, 200]


def test_a_client_that_asks_first_is_told_to_go_on(line: Line) -> None:
    content = body()
    line.send(head(len(content), headers={"expect": "100-continue"}))
    assert line.continues()
    line.send(content)
    assert line.read().status == 200
    line.send(head(len(content), path="/v2/models/linear/infer", headers={"expect": "100-continue", "host": "evil"}))
    assert line.read().status == 403  # at once, and no body wanted


@pytest.mark.parametrize(
    ("version", "headers", "stays"),
    [("1.1", {}, True), ("1.1", {"connection": "close"}, False), ("1.0", {}, False)],
)
def test_the_connection_is_kept_or_not(line: Line, version: str, headers: dict[str, str], stays: bool) -> None:
    line.send(post(body(), headers=headers).replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
    got = line.read()
    assert got.status == 200
    assert (got.headers.get("connection") != "close") == stays
    if stays:
        line.send(post(body()))
        assert line.read().status == 200
    else:
        assert line.is_closed()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "PUT", "PATCH"])
def test_other_methods_are_refused_with_the_right_one(line: Line, method: str) -> None:
    line.send(head(method=method))
    if method == "HEAD":
        assert b" 405 " in line._file.readline()
        return
    got = line.read()
    assert (got.status, got.headers["allow"]) == (405, "POST")


def test_a_method_that_does_not_exist_is_bad_http(line: Line) -> None:
    line.send(head(method="BREW"))
    assert line.read().status == 400
    assert line.is_closed()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_head_without_end_is_cut_off(line: Line, version: str) -> None:
    line.send(f"POST {INFER} HTTP/{version}\r\nhost: 127.0.0.1\r\n".encode())
    for _ in range(parting.HEAD_BYTES // 100):
        line.send(b"x-a: " + b"a" * 1000)  # one endless value
    with contextlib.suppress(IndexError, ConnectionError):  # what is sent after the answer may take it along
        got = line.read()
        assert (got.status, got.json["error"]["code"]) == (431, "too_large")
    assert line.is_closed()


def test_a_head_that_is_too_long_in_one_piece(line: Line) -> None:
    line.send(post(b"", headers={"x-a": "a" * parting.HEAD_BYTES}))
    assert line.read().status == 431


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_packed_both_ways(line: Line, encoding: str, pack: Any) -> None:
    line.send(post(pack(body()), headers={"content-encoding": encoding, "accept-encoding": encoding}))
    got = line.read()
    assert got.headers["content-encoding"] == encoding
    content = gzip.decompress(got.body) if encoding == "gzip" else zlib.decompress(got.body)
    assert json.loads(content)["outputs"][0]["data"] == scores([1, 2, 3, 4])


def test_the_token_is_asked_for_before_the_body_is_read(own: lw.Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = own.settings.model_copy(update={"token": "s3cret"})
    monkeypatch.setattr(type(own), "settings", property(lambda self: settings))
    with ServerThread(own) as server, raw.line(server.url) as line:
        line.send(head(1000))  # nothing of the body follows
        got = line.read()
        assert (got.status, got.headers["www-authenticate"]) == (401, "Bearer")
        line.send(b"x" * 1000, post(body(), headers={"authorization": "Bearer s3cret"}))
        assert line.read().status == 200


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"origin": "https://evil.example"}])
def test_the_same_guard_as_elsewhere(line: Line, headers: dict[str, str]) -> None:
    line.send(post(body(), headers=headers))
    assert line.read().status == 403
    line.send(post(body()))
    assert line.read().status == 200


def test_a_body_above_the_limit_is_refused_from_its_length_or_when_it_gets_there(
    own: lw.Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = own.settings.model_copy(update={"max_body_bytes": 1000})
    monkeypatch.setattr(type(own), "settings", property(lambda self: settings))
    with ServerThread(own) as server:
        for start in (head(100_000_000), head(headers={"transfer-encoding": "chunked"}) + b"7d0\r\n" + b"x" * 2000):
            with raw.line(server.url) as line:
                line.send(start)
                got = line.read()
                assert (got.status, got.headers["connection"]) == (413, "close")
                assert line.is_closed()
        with raw.line(server.url) as line:
            bomb = gzip.compress(b" " * 500_000)
            line.send(post(bomb, headers={"content-encoding": "gzip"}))
            assert line.read().status == 413


def test_a_body_that_stalls_is_given_up(server: ServerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "STALL_S", 0.05)
    with raw.line(server.url) as line:
        line.send(head(100), b"{")
        got = line.read()
        assert got.status == 504
        assert "without pauses" in got.json["error"]
        assert line.is_closed()


def test_a_client_that_takes_no_answers_is_dropped(server: ServerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WRITE_S", 0.2)
    with raw.line(server.url) as line:
        line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.socket.settimeout(raw.PATIENCE_S)
        request = head(method="GET", path="/openapi.json") * 20 + post(body()) * 20
        with pytest.raises(OSError):
            line.send(*(request for _ in range(100_000)))


def test_both_ways_in_give_the_same(folder: Path, server: ServerThread, line: Line) -> None:
    """Every kind of request, over the socket and by ASGI: status, body and headers."""
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    binary, length = protocol.ask({"x": x})
    requests: list[tuple[bytes, dict[str, str], str]] = [
        (body(), {}, INFER),
        (body(id="7"), {}, "/v2/models/linear/versions/1/infer"),
        (body(outputs=[{"name": "scores", "parameters": {"classification": 2}}]), {}, INFER),
        (body(outputs=[{"name": "boxes"}]), {}, INFER),
        (binary, {"inference-header-content-length": str(length)}, INFER),
        (x.tobytes(), {"inference-header-content-length": "0"}, INFER),
        (body(), {"inference-header-content-length": "x"}, INFER),
        (body([1e39, 0, 0, 0]), {}, INFER),
        (body(["1", 0, 0, 0]), {}, INFER),  # type: ignore[list-item]
        (body([1, 2, 3]), {}, INFER),
        (b"{", {}, INFER),
        (b"[]", {}, INFER),
        (b"", {}, INFER),
        (body(), {}, "/v2/models/other/infer"),
        (body(), {}, "/v2/models/linear/versions/2/infer"),
        (body(), {"inference-timeout-ms": "soon"}, INFER),
        (body(parameters={"timeout": 1_000_000}), {"inference-timeout-ms": "900"}, INFER),
    ]
    with (
        lw.open(folder, create=False) as space,
        TestClient(create_app(space, serving=server.serving), base_url="http://127.0.0.1") as client,
    ):
        for content, headers, path in requests:
            line.send(post(content, path=path, headers=headers))
            got = line.read()
            other = client.post(path, content=content, headers=headers)
            assert (got.status, got.body) == (other.status_code, other.content), content
            theirs = {name: value for name, value in other.headers.items() if name != "date"}
            assert {name: value for name, value in got.headers.items() if name != "date"} == theirs


def test_requests_of_one_turn_are_one_run_and_rows_of_a_table_too(server: ServerThread) -> None:
    served = server.serving.engine.model("rows")
    before = served.statistics.executions, served.statistics.success
    row = {"age": 41.0, "sum": 2.5, "paid": 1, "city": "b"}
    inputs = [
        {"name": n, "datatype": "BYTES" if n == "city" else "FP64", "shape": [1, 1], "data": [v]}
        for n, v in row.items()
    ]
    asked = post(json.dumps({"inputs": inputs}).encode(), path="/v2/models/rows/infer")
    lines = [Line(server.url) for _ in range(16)]
    for line in lines:
        line.send(asked)
    expected = (np.array([41, 2.5, 1, 1], np.float32) @ small.WEIGHTS).tolist()
    for line in lines:
        got = line.read()
        assert got.json["outputs"][0]["data"] == pytest.approx(expected)
        line.close()
    assert served.statistics.success == before[1] + 16
    assert served.statistics.executions - before[0] <= 16
    assert sum(rows * runs for rows, runs in served.statistics.batches.items()) == served.statistics.inferences


def test_more_rows_than_are_light_go_to_the_threads(server: ServerThread, line: Line) -> None:
    x = [float(i % 7) for i in range(4 * 500)]
    line.send(post(body(x)))
    assert line.read().json["outputs"][0]["data"] == pytest.approx(scores(x))


def test_a_model_that_grows_slow_is_left_to_its_threads_for_a_while(
    own: lw.Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ServerThread(own) as server, raw.line(server.url) as line:
        found = server.serving.engine.model("linear").light
        assert found is not None
        monkeypatch.setattr(light, "LIGHT_S", 0.0)
        for _ in range(light.RUNS):
            assert found.is_ready
            line.send(post(body()))
            assert line.read().status == 200
        assert not found.is_ready
        line.send(post(body()))
        assert line.read().json["outputs"][0]["data"] == scores([1, 2, 3, 4])


def test_a_new_revision_answers_the_next_request(own: lw.Workspace, tmp_path: Path) -> None:
    with ServerThread(own) as server, raw.line(server.url) as line:
        line.send(post(body()))
        assert line.read().json["model_version"] == "1"
        own.deploy(register(own, small.linear(tmp_path / "two", 2 * small.WEIGHTS), "linear"), name="linear")
        server.serving.sync()
        line.send(post(body()))
        got = line.read().json
        assert (got["model_version"], got["outputs"][0]["data"]) == ("2", [2 * s for s in scores([1, 2, 3, 4])])


def test_no_request_for_a_light_model_is_lost_while_revisions_change(own: lw.Workspace, tmp_path: Path) -> None:
    times = {str(i): float(i) for i in (1, 2, 3)}
    bundles = {v: small.linear(tmp_path / v, np.float32(weight) * small.WEIGHTS) for v, weight in times.items()}
    stop = threading.Event()
    seen: set[str] = set()

    def ask(url: str) -> int:
        count = 0
        with raw.line(url) as line:
            while not stop.is_set():
                line.send(post(body()))
                got = line.read()
                assert got.status == 200, got.body
                version = got.json["model_version"]
                assert got.json["outputs"][0]["data"] == [times[version] * s for s in scores([1, 2, 3, 4])]
                seen.add(version)
                count += 1
        return count

    with ServerThread(own) as server, ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, server.url) for _ in range(4)]
        for version in "231231231":
            server.serving.engine.load("linear", bundles[version], version=version)
        stop.set()
        assert min(future.result(raw.PATIENCE_S) for future in asking) > 0
    assert len(seen) > 1


def test_a_client_that_resets_leaves_nothing_behind(server: ServerThread) -> None:
    for start in (head(100), post(body()) * 50, head(100) + b"{"):
        line = Line(server.url)
        line.send(start)
        line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.close()
    with raw.line(server.url) as line:
        line.send(post(body()))
        assert line.read().status == 200


def test_metrics_count_what_never_saw_asgi(server: ServerThread, line: Line) -> None:
    def count(outcome: str) -> float:
        labels = {"deployment": "linear", "outcome": outcome}
        return server.serving.metrics.registry.get_sample_value("loopworks_requests_total", labels) or 0.0

    before = count("done"), count("invalid")
    line.send(post(body()), post(b"{"))
    assert [line.read().status for _ in range(2)] == [200, 400]
    assert (count("done"), count("invalid")) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize(
    ("url", "route"),
    [
        (b"/v2/models/a/infer", ("a", "")),
        (b"/v2/models/a/infer?x=1", ("a", "")),
        (b"/v2/models/a%20b/versions/3/infer", ("a b", "3")),
        (b"/v2/models/a%2Fb/infer", None),
        (b"/v2/models/a/infer/", None),
        (b"/v2/models//infer", None),
        (b"/v2/models/a/versions//infer", None),
        (b"/predict/a/b", None),
        (b"/predict/a?version=2", None),
        (b"/v2/models/\xff/infer", None),
    ],
)
def test_which_urls_are_inference(url: bytes, route: tuple[str, str] | None) -> None:
    found = _route(url)
    assert (None if found is None else (found.model, found.version)) == route


# ---- ends in order


def test_who_asks_for_an_upgrade_is_answered_without_one(line: Line) -> None:
    upgrade = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAEAAEAA"}
    asked = post(body(), headers=upgrade)  # as Java's client does
    line.send(asked + head(method="GET", path="/v2/health/live", headers=upgrade) + asked[:-5])
    assert [line.read().status for _ in range(2)] == [200, 200]
    line.send(asked[-5:] + post(body(id="last")))
    assert line.read().json["outputs"][0]["data"] == scores([1, 2, 3, 4])
    assert line.read().json["id"] == "last"


@pytest.mark.parametrize("before", [post(body()), head(method="GET", path="/v2/health/live")])
@pytest.mark.parametrize("broken", [b"RUBBISH\r\n\r\n", post(b"", headers={"x": "x" * parting.HEAD_BYTES}) + b"x"])
def test_what_came_before_broken_http_is_answered_as_what_it_is(line: Line, before: bytes, broken: bytes) -> None:
    line.send(before * 3 + broken)
    assert [line.read().status for _ in range(3)] == [200] * 3
    assert line.is_closed()


@pytest.mark.parametrize("asked", [b"POST %b" % INFER.encode(), b"GET /v2/health/ready"])
def test_a_probe_that_says_no_host_is_no_browser(line: Line, asked: bytes) -> None:
    line.send(b"%b HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (asked, len(body()), body()))
    assert line.read().status == 200
    assert line.is_closed()


@pytest.mark.parametrize("path", [INFER, "/api/feedback"])
def test_a_broken_body_is_told_in_json(line: Line, path: str) -> None:
    line.send(head(path=path, headers={"transfer-encoding": "chunked"}) + b"5;x\r\nabcde\r\nnine\r\n")
    got = line.read()
    assert (got.status, got.headers["connection"]) == (400, "close")
    assert "request must be well-formed HTTP/1.1; got" in str(got.json["error"])
    assert line.is_closed()


@pytest.mark.parametrize("start", [b"5;", b"2\r\n{}\r\n0\r\nX: "])
def test_labels_and_trailers_of_chunks_are_bounded(server: ServerThread, line: Line, start: bytes) -> None:
    line.send(head(headers={"transfer-encoding": "chunked"}) + start)
    with contextlib.suppress(OSError):
        line.send(*[b"x" * 8192] * 100)
        assert line.read().status == 413
    assert line.is_closed()


@pytest.mark.parametrize("path", [INFER, "/predict/linear"])
def test_who_sends_too_much_gets_to_read_so_before_the_end(
    own: lw.Workspace, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    settings = own.settings.model_copy(update={"max_body_bytes": 1000})
    monkeypatch.setattr(type(own), "settings", property(lambda self: settings))
    with ServerThread(own) as server, raw.line(server.url) as line:
        line.send(post(b"x" * 30_000_000, path=path))  # more than buffers hold: sent whole, and only then looked at
        assert line.read().status == 413
        assert line.is_closed()


def test_who_takes_no_answer_is_dropped_where_it_is_the_last_one_too(
    server: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WRITE_S", 0.2)
    before = len(psutil.Process().net_connections())
    with raw.line(server.url) as line:
        line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        content, length = protocol.ask({"x": np.zeros((700_000, 4), np.float32)})  # and as much comes back
        line.send(post(content, headers={"connection": "close", protocol.HEADER_LENGTH: str(length)}))
        end = time.monotonic() + raw.PATIENCE_S
        while len(psutil.Process().net_connections()) > before + 1:
            assert time.monotonic() < end, "the server must let go of a client that does not read"
            time.sleep(0.05)
