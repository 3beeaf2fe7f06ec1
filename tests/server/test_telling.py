"""The access log and traces: what is told of a request, and that it harms none."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.server.raw import Line

import loopworks as lw
from loopworks.core.errors import Denied, Missing, NotFound
from loopworks.server import access_log
from loopworks.server.access_log import AccessLog
from loopworks.server.app import create_app
from loopworks.server.run import ServerThread
from loopworks.server.serving import Serving
from loopworks.server.telling import Note, Telling

TENSOR = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [9] * 192}]}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def infer(line: Line, *headers: str, content: bytes = json.dumps(TENSOR).encode()) -> Any:
    head = ["POST /v2/models/colors/infer HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(content)}", *headers]
    line.send("\r\n".join(head).encode() + b"\r\n\r\n" + content)
    return line.read()


@pytest.fixture
def logged(space: lw.Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The server of ``space`` writes its access log, as JSON, here."""
    path = tmp_path / "access.log"
    settings = space.settings.model_copy(update={"access_log": "json", "access_log_file": str(path)})
    monkeypatch.setattr(type(space), "settings", property(lambda self: settings))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_way_in_writes_a_line(space: lw.Workspace, logged: Path, photo: Callable[..., bytes]) -> None:
    text = space.add_token("ci", ["write"]).text
    with ServerThread(space) as server:
        line = Line(server.url)
        sent = [infer(line, f"Authorization: Bearer {text}", "X-Request-Id: mine.1"), infer(line)]
        picture = photo("red")
        line.send(
            b"POST /predict/colors HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nX-Request-Id: mine.2\r\n"
            + f"Authorization: Bearer {text}\r\nContent-Length: {len(picture)}\r\n\r\n".encode()
            + picture
        )
        sent.append(line.read())
        line.send(b"GET /nothing%0Aat%22all HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        sent.append(line.read())
        line.close()
    found = read(logged)
    assert [(one["method"], one["path"], one["status"], one["token"], one["model"]) for one in found] == [
        ("POST", "/v2/models/colors/infer", 200, "ci", "colors/1"),
        ("POST", "/v2/models/colors/infer", 401, "", ""),
        ("POST", "/predict/colors", 200, "ci", "colors/1"),
        ("GET", '/nothing\nat"all', 401, "", ""),
    ]
    assert [one["bytes"] for one in found] == [len(got.body) for got in sent]
    assert [one["request_id"] for one in found] == [got.headers["x-request-id"] for got in sent]
    assert (found[0]["request_id"], found[2]["request_id"]) == ("mine.1", "mine.2")
    assert len({one["request_id"] for one in found}) == 4
    assert {one["address"] for one in found} == {"127.0.0.1"}
    assert all(0 < one["ms"] < 20_000 for one in found)


def test_a_client_that_leaves_is_noted(space: lw.Workspace, logged: Path) -> None:
    with ServerThread(space) as server:
        line = Line(server.url)
        line.send(b"POST /v2/models/colors/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{")
        time.sleep(0.05)
        line.close()
        end = time.monotonic() + 20
        while not logged.read_text(encoding="utf-8"):
            assert time.monotonic() < end, "the client's leave must be noted"
            time.sleep(0.02)
    assert [(one["status"], one["bytes"]) for one in read(logged)] == [(499, 0)]


@pytest.mark.parametrize("given", ["a b", "x\x7f", "\N{LATIN SMALL LETTER E WITH ACUTE}", "y" * 129, ""])
def test_an_id_that_could_forge_a_line_is_not_taken(space: lw.Workspace, given: str) -> None:
    telling = Telling(space.settings.model_copy(update={"access_log": "text"}))
    found = telling.id({"x-request-id": given})
    telling.close()
    assert found != given
    assert found.isascii()


def test_without_a_log_only_the_clients_own_id_comes_back(client: TestClient) -> None:
    assert client.get("/api/health", headers={"x-request-id": "a-1"}).headers["x-request-id"] == "a-1"
    assert "x-request-id" not in client.get("/api/health").headers
    answer = client.post("/v2/models/none/infer", json=TENSOR, headers={"x-request-id": "a-2"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (404, "a-2")


def test_a_text_line_is_one_line(tmp_path: Path) -> None:
    written = AccessLog("text", str(tmp_path / "log"))
    note = Note("GET", '/a"b\n\x1b[31m\udcff', {}, "::1", "id-1", status=404, size_bytes=7)
    note.ended_ns = note.began_ns + 1_500_000
    written.add(note)
    written.close()
    written.close()
    (line,) = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert line.endswith('Z ::1 - "GET /a\\"b\\n\\x1b[31m\\udcff" 404 1.5 ms 7 B - id-1')


def test_half_a_character_does_not_end_the_log(tmp_path: Path) -> None:
    written = AccessLog("json", str(tmp_path / "log"))
    for path in ("/\udcff", "/after"):
        written.add(Note("GET", path, {}))
    written.close()
    assert [one["path"] for one in read(tmp_path / "log")] == ["'/\\udcff'", "/after"]


def test_a_flood_is_dropped_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "MOST", 3)
    monkeypatch.setattr(access_log, "PAUSE_S", 60.0)
    written = AccessLog("json", str(tmp_path / "log"))
    for _ in range(10):
        written.add(Note("GET", "/", {}))
    written.close()
    found = read(tmp_path / "log")
    assert (len(found), found[-1]) == (4, {"dropped": 7})


def test_a_full_disk_loses_lines_and_no_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "PAUSE_S", 60.0)  # the test writes, not the thread
    written = AccessLog("text", "/dev/full")
    for _ in range(2):
        written.add(Note("GET", "/", {}))
        written._write()
    assert len([r for r in caplog.records if "lines are lost" in r.getMessage()]) == 1
    assert written._file is not None
    written._file.close()
    written._file = (tmp_path / "log").open("ab", buffering=0)
    written.add(Note("GET", "/again", {}))
    written.close()
    (line,) = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert "/again" in line


def test_without_a_file_it_goes_to_the_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    written = AccessLog("text")
    written.add(Note("GET", "/here", {}))
    written.close()
    assert '"GET /here" 499' in capsys.readouterr().err


def test_a_log_that_cannot_be_is_said_at_the_start(space: lw.Workspace, tmp_path: Path) -> None:
    for path, kind in ((tmp_path / "none" / "log", NotFound), (tmp_path, Denied)):
        with pytest.raises(kind):
            Telling(space.settings.model_copy(update={"access_log": "text", "access_log_file": str(path)}))


def test_traces_without_their_package_say_what_to_install(space: lw.Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(Missing) as caught:
        Telling(space.settings.model_copy(update={"tracing": True}))
    assert caught.value.hint == "pip install 'loopworks[telemetry]'"


@pytest.fixture
def spans() -> Any:
    """``spans.tracing`` for a server, ``spans.found()`` what it made."""
    pytest.importorskip("opentelemetry.sdk", reason="needs the [telemetry] extra")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from loopworks.server.tracing import Tracing

    class Spans:
        def __init__(self) -> None:
            self._memory = InMemorySpanExporter()
            self.tracing = Tracing(SimpleSpanProcessor(self._memory))

        def found(self) -> list[Any]:
            return list(self._memory.get_finished_spans())

    return Spans()


def test_a_trace_goes_on_and_shows_decode_queue_and_compute(
    space: lw.Workspace, spans: Any, photo: Callable[..., bytes]
) -> None:
    serving = Serving(space, telling=Telling(space.settings, spans.tracing))
    try:
        with TestClient(create_app(space, serving=serving), base_url="http://127.0.0.1") as client:
            headers = {"traceparent": PARENT, "content-type": "image/png", "x-request-id": "mine"}
            assert client.post("/predict/colors", content=photo("red"), headers=headers).status_code == 200
            found = {span.name: span for span in spans.found()}
            assert set(found) == {"POST /predict/colors", "decode", "queue", "compute"}
            top = found["POST /predict/colors"]
            assert f"{top.context.trace_id:032x}" == PARENT.split("-")[1]
            assert f"{top.parent.span_id:016x}" == PARENT.split("-")[2]
            assert top.attributes["loopworks.model"] == "colors/1"
            assert top.attributes["loopworks.request_id"] == "mine"
            assert top.attributes["http.response.status_code"] == 200
            for name in ("decode", "queue", "compute"):
                assert found[name].parent.span_id == top.context.span_id
                assert top.start_time <= found[name].start_time <= found[name].end_time <= top.end_time + 1_000_000
            assert found["compute"].end_time > found["compute"].start_time
            assert abs(top.end_time - time.time_ns()) < 60e9
            before = len(spans.found())
            client.get("/nothing", headers={"traceparent": "nonsense"})
            (alone,) = spans.found()[before:]
            assert (alone.name, alone.parent, alone.attributes["http.response.status_code"]) == (
                "GET /nothing",
                None,
                404,
            )
            unsampled = PARENT.removesuffix("01") + "00"
            client.get("/api/health", headers={"traceparent": unsampled})
            assert len(spans.found()) == before + 1
    finally:
        serving.close()


def test_inference_past_asgi_is_traced(space: lw.Workspace, spans: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopworks.server.serving.Telling", lambda settings: Telling(settings, spans.tracing))
    with ServerThread(space) as server:
        line = Line(server.url)
        assert infer(line, f"Traceparent: {PARENT}").status == 200
        line.close()
    found = {span.name: span for span in spans.found()}
    assert {"POST /v2/models/colors", "decode", "queue", "compute"} == set(found)
    top = found["POST /v2/models/colors"]
    assert f"{top.context.trace_id:032x}" == PARENT.split("-")[1]
    assert found["compute"].end_time <= top.end_time + 1_000_000


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Address of an OTLP collector, and what it was sent."""
    got: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_standard_variables_say_where_spans_go(
    space: lw.Workspace, collector: tuple[str, list[tuple[str, bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the [telemetry] extra")
    url, got = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    telling = Telling(space.settings.model_copy(update={"tracing": True}))
    telling.tell(Note("GET", "/api/models", {}, status=200))
    telling.close()
    ((path, body),) = got
    assert path == "/v1/traces"
    assert b"GET /api/models" in body
    assert b"loopworks" in body
