"""Chains by the inference protocol, over HTTP and gRPC: Triton's own clients know them as ensembles."""

import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image

import loopworks as lw
from loopworks.core.errors import Busy, Cancelled, TimedOut
from loopworks.infer import protocol
from loopworks.infer.engine import Replaced, Served
from loopworks.server import chained
from loopworks.server.run import ServerThread

http = pytest.importorskip("tritonclient.http", reason="needs the [demo] extra")
import tritonclient.grpc as grpc  # noqa: E402
from tritonclient.utils import InferenceServerException  # noqa: E402

Photo = Callable[..., bytes]


@dataclass
class Reply:
    status: int
    headers: Any
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


def send(url: str, body: bytes | None = None, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, named)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return Reply(reply.status, reply.headers, reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.headers, error.read())


@pytest.fixture(scope="module")
def server(made: lw.Workspace) -> Iterator[ServerThread]:
    with ServerThread(made, grpc=True) as running:
        yield running


@pytest.fixture(scope="module", params=["http", "grpc"])
def client(request: pytest.FixtureRequest, server: ServerThread) -> Iterator[tuple[Any, Any]]:
    """The module of a client, and a client."""
    kind: Any = {"http": http, "grpc": grpc}[request.param]
    address = server.url.removeprefix("http://") if kind is http else server.grpc
    found = kind.InferenceServerClient(address)
    yield kind, found
    found.close()


def files(kind: Any, contents: list[bytes]) -> Any:
    found = kind.InferInput("file", [len(contents)], "BYTES")
    found.set_data_from_numpy(np.array(contents, object))
    return found


def pixels(kind: Any, contents: list[bytes]) -> Any:
    array = np.stack([np.asarray(Image.open(io.BytesIO(one))) for one in contents])
    found = kind.InferInput("image", list(array.shape), "UINT8")
    found.set_data_from_numpy(array)
    return found


def told(result: Any) -> list[dict[str, Any]]:
    return [json.loads(one) for one in result.as_numpy("answer")]


def bare(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key not in ("id", "name", "item")}


def test_answers_are_those_of_predict(made: lw.Workspace, client: tuple[Any, Any], photo: Photo) -> None:
    kind, ask = client
    contents = [photo(1), photo(2)]
    expected, _ = made.predict_many("street", contents)
    found = ask.infer("street", [files(kind, contents)])
    assert [{**one, "name": ""} for one in told(found)] == [{**one, "name": ""} for one in expected]
    assert [one["name"] for one in told(found)] == ["file[0]", "file[1]"]
    seen = told(ask.infer("street", [pixels(kind, contents)], model_version="1", request_id="7"))
    assert list(map(bare, seen)) == list(map(bare, expected)), "a PNG file is its pixels"
    assert [one["name"] for one in seen] == ["image[0]", "image[1]"]


def test_it_is_listed_described_ready_and_counted(made: lw.Workspace, client: tuple[Any, Any], photo: Photo) -> None:
    kind, ask = client
    how = {"as_json": True} if kind is grpc else {}
    index = ask.get_model_repository_index(**how)
    listed = index["models"] if kind is grpc else index
    assert {"name": "street", "version": "1", "state": "READY"}.items() <= {one["name"]: one for one in listed}[
        "street"
    ].items()
    about = ask.get_model_metadata("street", **how)
    assert about["platform"] == "ensemble"
    assert [one["name"] for one in about["inputs"]] == ["image", "file"]
    config = ask.get_model_config("street", **how)
    config = config.get("config", config)
    assert (config["platform"], config["input"][1]["data_type"]) == ("ensemble", "TYPE_STRING")
    if kind is http:
        steps = config["ensemble_scheduling"]["step"]
        assert [one["model_name"] for one in steps] == ["object-detection", "image-classification", "kinds:1"]
    assert ask.is_model_ready("street")
    assert ask.is_model_ready("street", "1")
    assert not ask.is_model_ready("street", "2")
    before = ask.get_inference_statistics("street", **how)["model_stats"][0]
    ask.infer("street", [files(kind, [photo(3), photo(4)])])
    after = ask.get_inference_statistics("street", **how)["model_stats"][0]
    assert int(after["inference_count"]) - int(before.get("inference_count", 0)) == 2
    assert int(after["execution_count"]) - int(before.get("execution_count", 0)) == 1
    everyone = ask.get_inference_statistics(**how)["model_stats"]
    assert "street" in {one["name"] for one in everyone}
    ask.load_model("street")
    with pytest.raises(InferenceServerException, match="in memory as its models"):
        ask.unload_model("street")


def test_a_chain_whose_model_is_unloaded_says_so(client: tuple[Any, Any], photo: Photo) -> None:
    kind, ask = client
    how = {"as_json": True} if kind is grpc else {}
    ask.unload_model("image-classification")
    try:
        assert not ask.is_model_ready("street")
        with pytest.raises(InferenceServerException, match="model of node 'kind' of chain 'street'"):
            ask.infer("street", [files(kind, [photo(1)])])
        index = ask.get_model_repository_index(**how)
        state = {one["name"]: one for one in (index["models"] if kind is grpc else index)}["street"]
        assert state["state"] == "UNAVAILABLE"
        assert "'kind'" in state["reason"]
    finally:
        ask.load_model("image-classification")
    assert told(ask.infer("street", [files(kind, [photo(1)])]))


def test_what_is_wrong_is_said(client: tuple[Any, Any], photo: Photo) -> None:
    kind, ask = client
    small = kind.InferInput("image", [1, 4, 4], "UINT8")
    small.set_data_from_numpy(np.zeros((1, 4, 4), np.uint8))
    both = [files(kind, [photo()]), pixels(kind, [photo()])]
    bad = [
        ([files(kind, [photo(), b"none"])], r"file\[1\] must be"),
        (both, r"inputs must be image \(UINT8 .* or file"),
        ([small], "input image shape must be"),
        ([files(kind, [b"x"] * 257)], "input file must be at most 256 images"),
    ]
    for inputs, words in bad:
        with pytest.raises(InferenceServerException, match=words):
            ask.infer("street", inputs)
    with pytest.raises(InferenceServerException, match="outputs must be among answer"):
        ask.infer("street", [files(kind, [photo()])], outputs=[kind.InferRequestedOutput("labels")])
    with pytest.raises(InferenceServerException, match="version of chain 'street' '7' does not exist"):
        ask.infer("street", [files(kind, [photo()])], model_version="7")
    with pytest.raises(InferenceServerException, match="model 'nobody' does not exist"):
        ask.infer("nobody", [files(kind, [photo()])])


def test_json_base64_raw_bodies_and_packed_ones(server: ServerThread, photo: Photo, made: lw.Workspace) -> None:
    import base64
    import gzip

    content, url = photo(5), f"{server.url}/v2/models/street/infer"
    expected = bare(made.predict("street", content))
    text = base64.b64encode(content).decode()
    body = json.dumps({"id": "a", "inputs": [{"name": "file", "datatype": "BYTES", "shape": [1], "data": [text]}]})
    replies = [
        send(url, body.encode()),
        send(url, gzip.compress(body.encode()), Content_Encoding="gzip"),
    ]
    for reply in replies:
        (output,) = reply.json()["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("answer", "BYTES", [1])
        assert bare(json.loads(output["data"][0])) == expected
        assert (reply.json()["model_name"], reply.json()["model_version"], reply.json()["id"]) == ("street", "1", "a")
    raw = send(url, content, Inference_Header_Content_Length="0")
    head = int(raw.headers[protocol.HEADER_LENGTH])
    assert bare(json.loads(raw.content[head + 4 :])) == expected
    metrics = send(f"{server.url}/metrics").content.decode()
    assert 'nv_inference_request_success{model="street",version="1"}' in metrics
    assert 'loopworks_requests_total{deployment="street",outcome="done"}' in metrics


def test_a_token_of_the_chain_alone_asks_it_and_not_its_models(
    made: lw.Workspace, server: ServerThread, photo: Photo
) -> None:
    token = made.add_token("street-only", scopes=["predict"], deployments=["street"])
    serving_tokens = server.serving.tokens
    serving_tokens.refresh()
    try:

        def ask(name: str) -> int:
            url, who = f"{server.url}/v2/models/{name}/infer", f"Bearer {token.text}"
            return send(url, photo(), Inference_Header_Content_Length="0", Authorization=who).status

        assert (ask("street"), ask("object-detection")) == (200, 403)
    finally:
        made.revoke_token("street-only")
        serving_tokens.refresh()


def test_too_many_too_late_and_gone(
    made: lw.Workspace, server: ServerThread, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    chains, street = server.serving.chains, made.chain("street")
    monkeypatch.setattr(chains, "_free", threading.BoundedSemaphore(1))
    go, begun = threading.Event(), threading.Event()

    def work(stopped: Callable[[], bool]) -> bool:
        begun.set()
        go.wait(20)
        return stopped()

    first = chains.start(work)
    assert begun.wait(20)
    with pytest.raises(Busy, match=f"at most {chained.MOST_WAITING} requests may wait for chains"):
        chains.start(work)
    first.cancel()
    go.set()
    images = {"file": np.array([photo()], object)}
    request = protocol.Request(inputs=images)
    with pytest.raises(Cancelled):
        chains.tensors(street, request, 5.0, lambda: True, time.perf_counter())
    submit = Served.submit

    def never(self: Served, inputs: Any, timeout_s: float) -> Any:
        from concurrent.futures import Future

        return Future() if self.name == "image-classification" else submit(self, inputs, timeout_s)

    monkeypatch.setattr(Served, "submit", never)
    with pytest.raises(TimedOut, match="got nothing from node 'kind'"):
        chains.tensors(street, request, 0.2, lambda: False, time.perf_counter())


def test_what_waits_when_the_server_stops_is_told(made: lw.Workspace, server: ServerThread) -> None:
    chains, go, begun = chained.Chains(server.serving), threading.Event(), threading.Semaphore(0)

    def work(stopped: Callable[[], bool]) -> bool:
        begun.release()
        return go.wait(20)

    running = [chains.start(work) for _ in range(chained.THREADS)]
    for _ in running:
        assert begun.acquire(timeout=20)
    waiting = chains.start(work)
    closing = threading.Thread(target=chains.close)
    closing.start()
    with pytest.raises(Busy, match="the server must be running; it stops"):
        waiting.result(20)
    go.set()
    closing.join(20)
    assert all(one.result(20) for one in running)
    with pytest.raises(Busy, match="the server must be running; it stops"):
        chains.start(work)


def test_a_deadline_ends_the_wait_of_the_client(
    server: ServerThread, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    monkeypatch.setattr(chained.Chains, "link", lambda *_: go.wait(20) and None)
    url = f"{server.url}/v2/models/street/infer"
    try:
        reply = send(url, photo(), Inference_Header_Content_Length="0", Inference_Timeout_Ms="100")
    finally:
        go.set()
    assert reply.status == 504
    assert "must answer within 0.1 s" in reply.json()["error"]


def test_a_model_that_is_replaced_meanwhile_is_linked_anew(
    made: lw.Workspace, server: ServerThread, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = made.predict("street", photo(6))
    submit = Served.submit
    failed: list[Served] = []

    def once(self: Served, inputs: Any, timeout_s: float) -> Any:
        if self.name == "image-classification" and not failed:
            failed.append(self)
            server.serving.load("image-classification")
            raise Replaced("gone")
        return submit(self, inputs, timeout_s)

    monkeypatch.setattr(Served, "submit", once)
    reply = send(f"{server.url}/predict/street", photo(6), Content_Type="image/png")
    assert failed
    assert bare(reply.json()["predictions"][0]) == bare(expected)
