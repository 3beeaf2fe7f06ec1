"""Who may ask, and how much they may send."""

import gzip
import socket
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

import loopworks as lw
from loopworks.server import guard
from loopworks.server.app import create_app
from loopworks.server.guard import Guard, Rules
from loopworks.server.run import ServerThread
from loopworks.server.telling import Telling

Headers = dict[str, str]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8700", "localhost:1", "[::1]:8700", "LOCALHOST"])
def test_the_loopback_has_several_names(client: TestClient, host: str) -> None:
    assert client.get("/api/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8700", "127.0.0.1.evil.example", "[::1", "", "0.0.0.0"])
def test_another_name_is_a_rebinding_and_refused(client: TestClient, host: str) -> None:
    answer = client.get("/api/workspace", headers={"host": host})
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "denied"


@pytest.mark.parametrize("path", ["/api/deployments", "/predict/colors", "/v2/repository/models/colors/unload"])
def test_another_sites_page_cannot_change_anything(client: TestClient, path: str) -> None:
    answer = client.post(path, headers={"origin": "https://evil.example", "content-type": "text/plain"}, content="{}")
    assert answer.status_code == 403
    assert client.get("/v2/models/colors/ready").status_code == 200


def test_our_own_page_may(client: TestClient, photo: Callable[..., bytes]) -> None:
    answer = client.post(
        "/predict/colors", content=photo("red"), headers={"origin": "http://127.0.0.1", "content-type": "image/png"}
    )
    assert answer.status_code == 200


@pytest.fixture
def closed(space: lw.Workspace) -> Iterator[TestClient]:
    settings = space.settings.model_copy(update={"token": "s3cret"})
    with TestClient(create_app(space, settings), base_url="http://127.0.0.1") as made:
        yield made


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer other"}, {"authorization": "s3cret"}, {"authorization": "Basic s3cret"}]
)
def test_with_a_token_nothing_answers_without_it(closed: TestClient, headers: Headers) -> None:
    for path in ("/api/workspace", "/v2", "/v2/models/colors", "/metrics", "/openapi.json", "/nothing"):
        answer = closed.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        error = answer.json()["error"]
        assert "must carry a token of the server" in (error if path.startswith("/v2") else error["message"])


def test_with_the_token_everything_answers(closed: TestClient) -> None:
    for kind in ("Bearer", "bearer"):
        assert closed.get("/api/workspace", headers={"authorization": f"{kind} s3cret"}).status_code == 200


def test_health_and_the_empty_page_need_no_token(closed: TestClient) -> None:
    for path in ("/api/health", "/v2/health/live", "/v2/health/ready", "/", "/page.js", "/page.css"):
        answer = closed.get(path)
        assert answer.status_code == 200
        assert "colors" not in answer.text  # nothing of the workspace


@pytest.fixture
def small(space: lw.Workspace) -> Iterator[TestClient]:
    settings = space.settings.model_copy(update={"max_body_bytes": 10_000})
    with TestClient(create_app(space, settings), base_url="http://127.0.0.1") as made:
        yield made


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(size // 1000):
        yield b"\0" * 1000


@pytest.mark.parametrize("content", [lambda: b"\0" * 10_001, lambda: chunks(20_000)], ids=["declared", "chunked"])
@pytest.mark.parametrize("path", ["/predict/colors", "/v2/models/colors/infer"])
def test_a_body_over_the_limit_is_refused(small: TestClient, path: str, content: Any) -> None:
    answer = small.post(path, content=content())
    assert answer.status_code == 413
    assert "at most 10000 bytes" in answer.text
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_body_is_unpacked(client: TestClient, photo: Callable[..., bytes], encoding: str, pack: Any) -> None:
    headers = {"content-encoding": encoding, "content-type": "image/png"}
    answer = client.post("/predict/colors", content=pack(photo("green")), headers=headers)
    assert answer.json()["predictions"][0]["chosen"] == ["green"]


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_bomb_is_refused_before_it_goes_off(small: TestClient, encoding: str, pack: Any) -> None:
    bomb = pack(b"\0" * 5_000_000)
    assert len(bomb) < 10_000
    answer = small.post("/predict/colors", content=bomb, headers={"content-encoding": encoding})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("content", "encoding", "words"),
    [
        (b"no gzip", "gzip", "request body must be gzip data"),
        (gzip.compress(b"x" * 5000, mtime=0)[:-9], "gzip", "gzip data and nothing else; got a part"),
        (gzip.compress(b"x", mtime=0) + b"more", "gzip", "gzip data and nothing else; got more"),
        (b"x", "br", "content-encoding must be gzip or deflate; got br"),
    ],
)
def test_what_is_not_packed_as_said_is_refused(client: TestClient, content: bytes, encoding: str, words: str) -> None:
    for path, status in (("/predict/colors", 422), ("/v2/models/colors/infer", 400)):
        answer = client.post(path, content=content, headers={"content-encoding": encoding})
        assert answer.status_code == status
        assert words in answer.text


@pytest.mark.parametrize("path", ["/v2/nothing", "/v2x", "/nothing", "/api/datasets/a/b/c/d"])
def test_an_unknown_route_is_json(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert isinstance(error, str) == path.startswith("/v2/")
    assert "does not exist" in (error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize("path", ["/v2/models/colors/infer", "/predict/colors", "/api/train"])
def test_a_wrong_method_is_json_and_says_the_right_one(client: TestClient, path: str) -> None:
    answer = client.delete(path)
    assert answer.status_code == 405
    assert "POST" in answer.headers["allow"]
    assert "another method" in answer.text
    assert client.put("/v2/logging").headers["allow"] == "GET, HEAD, POST"


def test_a_fault_of_ours_is_one_id_outside_and_a_traceback_inside(
    client: TestClient, space: lw.Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(space, "info", broken)
    answer = client.get("/api/workspace")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (500, "internal")
    assert "secret" not in answer.text
    (record,) = [r for r in caplog.records if r.exc_info]
    assert error["message"].removeprefix("internal error ") in record.getMessage()


def test_a_body_that_stalls_is_given_up(space: lw.Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "STALL_S", 0.05)
    with ServerThread(space) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as line:
            line.sendall(b"POST /predict/colors HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nab")
            answer = line.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"without pauses" in answer


async def echo(request: Request) -> Response:
    return Response(await request.body())


@pytest.mark.parametrize("length", ["-1", "1e3", "nonsense"])
def test_a_length_that_is_no_number_is_not_trusted(space: lw.Workspace, length: str) -> None:
    settings = space.settings.model_copy(update={"max_body_bytes": 10})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (await echo(Request(scope, receive)))(scope, receive, send)

    client = TestClient(Guard(app, Rules(settings, None), Telling(settings, None)), base_url="http://127.0.0.1")
    assert client.post("/", content=b"x" * 11, headers={"content-length": length}).status_code == 413
    assert client.post("/", content=b"x" * 10, headers={"content-length": length}).content == b"x" * 10
