"""The bundle's server against the workspace's: the same questions get the same answers and the same errors."""

import base64
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

import loopworks as lw
from loopworks.core.errors import Denied, Invalid
from loopworks.infer import protocol
from loopworks.server.app import create_app
from loopworks.store import bundles, models
from loopworks_edge import model, server
from loopworks_edge.server import EdgeServer

Faces = dict[str, "Pair"]
TIMES = ("timings_ms",)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


def ask(url: str, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    try:
        connection.request(method, path, body or None, dict(headers or {}))
        reply = connection.getresponse()
        return Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
    finally:
        connection.close()


@dataclass(frozen=True)
class Pair:
    """The same deployment behind both servers."""

    url: str
    client: TestClient
    contents: Any

    def both(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[Reply, Reply]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        there = self.client.request(method, path, content=body, headers=named)
        return ask(self.url, method, path, body, named), Reply(there.status_code, dict(there.headers), there.content)


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., EdgeServer]]:
    """``start(edge, ...)`` serves a bundle in this process until the tests of this file end."""
    running: list[tuple[EdgeServer, threading.Thread]] = []

    def begin(edge: model.Edge, **how: Any) -> EdgeServer:
        made = EdgeServer(edge, **how)
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        running.append((made, thread))
        return made

    yield begin
    for made, thread in running:
        made.shutdown()
        thread.join()
        made.close()


@pytest.fixture(scope="module")
def edges(
    tmp_path_factory: pytest.TempPathFactory, kinds: Mapping[str, Any]
) -> Iterator[tuple[lw.Workspace, dict[str, model.Edge]]]:
    root = tmp_path_factory.mktemp("served")
    with lw.open(root / "space", threads=1) as space:
        found = {}
        for task, kind in kinds.items():
            key = bundles.save(space.home.blobs, kind.bundle.folder)
            with space.home.catalog.begin() as tx:
                made = models.add(tx, task, bundle=key, run="", version="0" * 64, task=task, variant="first")
            space.deploy(made)
            found[task] = model.open(space.pack_edge(task, root / task).path)
        yield space, found


@pytest.fixture(scope="module")
def faces(
    edges: tuple[lw.Workspace, dict[str, model.Edge]], kinds: Mapping[str, Any], start: Callable[..., EdgeServer]
) -> Iterator[Faces]:
    space, found = edges
    with TestClient(create_app(space), base_url="http://127.0.0.1") as client:
        yield {task: Pair(start(edge).url, client, kinds[task].contents) for task, edge in found.items()}


def timeless(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key not in TIMES}


def test_every_kind_is_predicted_alike(faces: Faces) -> None:
    for task, pair in faces.items():
        if task.startswith(("tabular", "text")):
            word = "texts" if task.startswith("text") else "rows"
            body, kind = json.dumps({word: list(pair.contents)}).encode(), "application/json"
        else:
            body, kind = pair.contents[0], "image/png"
        here, there = pair.both("POST", f"/predict/{task}", body, content_type=kind)
        assert here.status == there.status == 200, here.content
        assert timeless(here.json()) == timeless(there.json())
        assert here.json()["timings_ms"].keys() == there.json()["timings_ms"].keys()


@pytest.mark.parametrize("is_binary", [True, False])
def test_every_kind_infers_bit_for_bit_alike(faces: Faces, kinds: Mapping[str, Any], is_binary: bool) -> None:
    for task, pair in faces.items():
        bundle = kinds[task].bundle
        body, length = protocol.ask(
            bundle.rule.pack(pair.contents[:: 2 if is_binary else 3]), is_binary=is_binary, id="7"
        )
        headers = {} if length is None else {"inference_header_content_length": str(length)}
        here, there = pair.both("POST", f"/v2/models/{task}/infer", body, **headers)
        assert here.status == there.status == 200, here.content
        assert here.content == there.content
        assert here.headers.get("inference-header-content-length") == there.headers.get(
            "inference-header-content-length"
        )


def test_images_in_base64_rows_as_csv_and_a_bad_one_among_good_ones(faces: Faces) -> None:
    pair = faces["image-classification"]
    images = [base64.b64encode(one).decode() for one in pair.contents]
    body = json.dumps({"images": [*images, base64.b64encode(b"no image").decode()]}).encode()
    here, there = pair.both("POST", "/predict/image-classification", body, content_type="application/json")
    assert timeless(here.json()) == timeless(there.json())
    assert (len(here.json()["predictions"]), len(here.json()["problems"])) == (3, 1)
    pair = faces["tabular-regression"]
    table = b"age,city,at\n31,Bern,2024-05-31T13:45:00\n,Oslo,\n"
    here, there = pair.both("POST", "/predict/tabular-regression", table, content_type="text/csv")
    assert timeless(here.json()) == timeless(there.json())
    pair = faces["text-classification"]
    here, there = pair.both("POST", "/predict/text-classification", "Müll".encode(), content_type="text/plain")
    assert timeless(here.json()) == timeless(there.json())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v2/health/live"),
        ("GET", "/v2/health/ready"),
        ("GET", "/v2/models/image-classification"),
        ("GET", "/v2/models/image-classification/versions/1"),
        ("GET", "/v2/models/image-classification/ready"),
        ("GET", "/v2/models/image-classification/versions/1/ready"),
    ],
)
def test_health_and_metadata_are_alike(faces: Faces, method: str, path: str) -> None:
    here, there = faces["image-classification"].both(method, path)
    assert (here.status, here.json()) == (there.status, there.json())


INPUT = {"name": "image", "datatype": "UINT8", "shape": [1, 16, 16, 3]}
BAD = [
    ("POST", "/predict/image-classification", b"", {"content_type": "image/png"}),
    ("POST", "/predict/image-classification", b"no image", {"content_type": "image/png"}),
    ("POST", "/predict/image-classification", b"{", {"content_type": "application/json"}),
    ("POST", "/predict/image-classification", b"[]", {"content_type": "application/json"}),
    ("POST", "/predict/image-classification", b'{"image": 3}', {"content_type": "application/json"}),
    ("POST", "/predict/image-classification", b'{"image": "%%"}', {"content_type": "application/json"}),
    ("POST", "/v2/models/image-classification/infer", b"{", {}),
    ("POST", "/v2/models/image-classification/infer", b'{"inputs": []}', {}),
    ("POST", "/v2/models/image-classification/infer", json.dumps({"inputs": [{**INPUT, "data": [1]}]}).encode(), {}),
    ("POST", "/v2/models/image-classification/infer", b"xx", {"inference_header_content_length": "3"}),
    ("POST", "/v2/models/image-classification/infer", b"xx", {"inference_header_content_length": "-3"}),
    ("POST", "/v2/models/nobody/infer", b"{}", {}),
    ("POST", "/v2/models/image-classification/versions/9/infer", b"{}", {}),
    ("GET", "/v2/models/nobody", b"", {}),
    ("POST", "/predict/nobody", b"x", {"content_type": "image/png"}),
]


def forget(text: bytes) -> str:
    """Without the names of models that only one of the servers has."""
    told = json.loads(text)["error"]
    message = told if isinstance(told, str) else told["message"]
    return str(message).partition(" (known")[0].partition(": line 1")[0]


@pytest.mark.parametrize(("method", "path", "body", "headers"), BAD)
def test_faults_get_the_same_words(faces: Faces, method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
    here, there = faces["image-classification"].both(method, path, body, **headers)
    assert here.status == there.status >= 400
    if b"JSON in UTF-8" not in here.content:  # whose library says why, differs
        assert forget(here.content) == forget(there.content)


def test_one_connection_carries_many_requests(faces: Faces) -> None:
    pair = faces["image-classification"]
    connection = http.client.HTTPConnection(pair.url.removeprefix("http://"), timeout=30)
    for place in range(3):
        connection.request("GET", "/v2/health/live" if place != 1 else "/v2/models/nobody")
        reply = connection.getresponse()
        assert reply.status == (404 if place == 1 else 200)
        reply.read()
    connection.close()


def test_many_clients_at_once_get_their_own_answers(faces: Faces, kinds: Mapping[str, Any]) -> None:
    pair = faces["image-classification"]
    bundle = kinds["image-classification"].bundle
    rng = np.random.default_rng(0)
    failures: list[str] = []

    def work(seed: int) -> None:
        image = rng.integers(0, 256, (1, 16, 16, 3), np.uint8)
        body, length = protocol.ask({"image": image})
        headers = {"Inference-Header-Content-Length": str(length)}
        first = ask(pair.url, "POST", "/v2/models/image-classification/infer", body, headers)
        second = ask(pair.url, "POST", "/v2/models/image-classification/infer", body, headers)
        scores = [np.frombuffer(one.content[-4 * len(bundle.schema.classes) :], "<f4") for one in (first, second)]
        if first.status != 200 or not np.allclose(scores[0], scores[1], atol=1e-6):
            failures.append(f"{seed}: {first.content[:200]!r}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# ---- who may ask, and how much


def raw(url: str, content: bytes) -> bytes:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while part := connection.recv(65536):
            found += part
    return found


@pytest.mark.parametrize(
    ("head", "status", "words"),
    [
        ("Content-Length: 99999999999", 413, "at most"),
        ("Content-Length: 12x", 422, "a whole number from 0"),
        ("Content-Length: -1", 422, "a whole number from 0"),
        ("Content-Length: 9", 422, "9 bytes, as Content-Length says"),
        ("Transfer-Encoding: chunked", 422, "sent with Content-Length"),
        ("Content-Encoding: gzip", 422, "not compressed"),
    ],
)
def test_a_body_that_is_not_what_its_header_says_ends_the_connection(
    faces: Faces, head: str, status: int, words: str
) -> None:
    url = faces["image-classification"].url
    told = raw(url, f"POST /predict/image-classification HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n\r\nabc".encode())
    assert told.startswith(f"HTTP/1.1 {status} ".encode())
    assert words.encode() in told
    assert b"Connection: close" in told


def test_another_sites_page_may_not_ask(faces: Faces) -> None:
    reply = ask(faces["image-classification"].url, "GET", "/v2", headers={"Host": "evil.example"})
    assert (reply.status, reply.json()) == (
        403,
        {"error": "host must be this machine; got evil.example (other sites' pages may not ask)"},
    )


def test_a_token_is_asked_for_everywhere_but_at_the_health_routes(
    edges: tuple[lw.Workspace, dict[str, model.Edge]], start: Callable[..., EdgeServer]
) -> None:
    url = start(edges[1]["image-classification"], token="secret").url
    assert ask(url, "GET", "/v2/health/live").status == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer sécret"}):
        assert ask(url, "GET", "/v2", headers=headers).status == 401
    assert ask(url, "GET", "/v2", headers={"Authorization": "Bearer secret"}).status == 200


def test_other_machines_are_answered_with_a_token_or_behind_a_gateway_alone(
    edges: tuple[lw.Workspace, dict[str, model.Edge]],
) -> None:
    with pytest.raises(Denied, match="a server at 0.0.0.0 must ask for a token"):
        EdgeServer(edges[1]["image-classification"], host="0.0.0.0")


def test_a_port_that_is_taken_is_told(faces: Faces, edges: tuple[lw.Workspace, dict[str, model.Edge]]) -> None:
    port = int(faces["image-classification"].url.rpartition(":")[2])
    with pytest.raises(Invalid, match=f"127.0.0.1:{port} must be an address that is free"):
        EdgeServer(edges[1]["image-classification"], port=port)


def test_too_many_clients_are_turned_away_and_the_others_answered(
    edges: tuple[lw.Workspace, dict[str, model.Edge]],
    start: Callable[..., EdgeServer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "MOST_CLIENTS", 2)
    url = start(edges[1]["image-classification"]).url
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    first, second = (http.client.HTTPConnection(*address, timeout=10) for _ in range(2))
    for one in (first, second):
        one.request("GET", "/v2/health/live")
        assert one.getresponse().read()
    with socket.create_connection(address, timeout=10) as third:
        assert third.recv(10) == b""
    first.request("GET", "/v2/health/live")
    assert first.getresponse().status == 200
    first.close()
    second.close()


def test_the_command_serves_until_it_is_told_to_end(edges: tuple[lw.Workspace, dict[str, model.Edge]]) -> None:
    import signal
    import subprocess
    import sys

    folder = Path(edges[1]["image-classification"].bundle.folder).parent
    words = [sys.executable, "-m", "loopworks_edge", "serve", "--port", "0"]
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.split(" on ")[1].split()[0]
        assert ask(url, "GET", "/v2/health/ready").status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
