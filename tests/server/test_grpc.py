"""The gRPC port, through a client that nobody here wrote and through bare calls."""

import asyncio
import gzip
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

import loopworks as lw
from loopworks.core import predictor as predictors
from loopworks.core.errors import Conflict
from loopworks.server import grpc_server
from loopworks.server.guard import Rules
from loopworks.server.protos import health_pb2, inference_pb2
from loopworks.server.run import ServerThread
from loopworks.server.serving import point

triton = pytest.importorskip("tritonclient.grpc", reason="needs the [demo] extra")
import tritonclient.grpc.aio as triton_aio  # noqa: E402
from tritonclient.utils import InferenceServerException  # noqa: E402

PATIENCE_S = 20.0
OPEN = {"ServerLive", "ServerReady"}
"""Methods that need no token."""


@pytest.fixture
def server(space: lw.Workspace) -> Iterator[ServerThread]:
    with ServerThread(space, grpc=True) as running:
        yield running


@pytest.fixture
def client(server: ServerThread) -> Iterator[Any]:
    made = triton.InferenceServerClient(server.grpc)
    yield made
    made.close()


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)


def tensor(pixels: NDArray[np.uint8], name: str = "image") -> Any:
    made = triton.InferInput(name, list(pixels.shape), "UINT8")
    made.set_data_from_numpy(pixels)
    return made


def message(pixels: NDArray[np.uint8], **fields: Any) -> inference_pb2.ModelInferRequest:
    made = inference_pb2.ModelInferRequest(model_name="colors", raw_input_contents=[pixels.tobytes()], **fields)
    made.inputs.add(name="image", datatype="UINT8", shape=pixels.shape)
    return made


class Bare:
    """Calls without anybody's client library."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)

    def call(self, name: str, sent: Any = None, **how: Any) -> Any:
        request = sent if sent is not None else getattr(inference_pb2, f"{name}Request")()
        answer = getattr(inference_pb2, f"{name}Response")
        path = f"/inference.GRPCInferenceService/{name}"
        call = self.channel.unary_unary(path, type(request).SerializeToString, answer.FromString)
        return call(request, timeout=how.pop("timeout", PATIENCE_S), **how)

    def start(self, sent: inference_pb2.ModelInferRequest, timeout: float = PATIENCE_S) -> Any:
        path = "/inference.GRPCInferenceService/ModelInfer"
        call = self.channel.unary_unary(path, type(sent).SerializeToString, inference_pb2.ModelInferResponse.FromString)
        return call.future(sent, timeout=timeout)

    def health(self, name: str, service: str = "", **how: Any) -> Any:
        kind = self.channel.unary_unary if name == "Check" else self.channel.unary_stream
        asked, told = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        call = kind(f"/grpc.health.v1.Health/{name}", asked.SerializeToString, told.FromString)
        return call(asked(service=service), timeout=PATIENCE_S, **how)


@pytest.fixture
def bare(server: ServerThread) -> Iterator[Bare]:
    made = Bare(server.grpc)
    yield made
    made.channel.close()


def refusal(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colors")
    assert client.is_model_ready("colors", "1")
    assert not client.is_model_ready("colors", "9")
    assert not client.is_model_ready("other")
    about = client.get_server_metadata()
    assert about.name == "loopworks"
    assert {"binary_tensor_data", "model_repository", "statistics"} <= set(about.extensions)
    model = client.get_model_metadata("colors", as_json=True)
    assert model["versions"] == ["1"]
    assert model["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": ["-1", "8", "8", "3"]}]
    assert model["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": ["-1", "3"]}]
    config = client.get_model_config("colors").config
    assert config.max_batch_size > 1
    assert list(config.input[0].dims) == [8, 8, 3]
    assert config.input[0].data_type == triton.model_config_pb2.TYPE_UINT8


def test_infer_raw_typed_and_classified(client: Any, bare: Bare, pixels: NDArray[np.uint8], colors: Any) -> None:
    found = client.infer("colors", [tensor(pixels)], request_id="42", model_version="1")
    np.testing.assert_allclose(found.as_numpy("scores"), colors.scores(pixels), atol=1e-6)
    answer = found.get_response()
    assert (answer.id, answer.model_name, answer.model_version) == ("42", "colors", "1")
    wanted = triton.InferRequestedOutput("scores", class_count=2)
    named = client.infer("colors", [tensor(pixels)], outputs=[wanted]).as_numpy("scores")
    best = [row[0].decode().split(":")[2] for row in named]
    assert best == [("red", "green", "blue")[i] for i in colors.scores(pixels).argmax(axis=1)]
    typed = inference_pb2.ModelInferRequest(model_name="colors")
    typed.inputs.add(name="image", datatype="UINT8", shape=pixels.shape)
    typed.inputs[0].contents.uint_contents.extend(pixels.reshape(-1).tolist())
    typed.parameters["binary_data_output"].bool_param = False
    plain = bare.call("ModelInfer", typed)
    assert not plain.raw_output_contents
    given = np.array(plain.outputs[0].contents.fp32_contents).reshape(3, 3)
    np.testing.assert_allclose(given, colors.scores(pixels), atol=1e-6)


def test_many_threads_and_asynchronous_calls_keep_their_answers(client: Any, colors: Any) -> None:
    batches = np.random.default_rng(1).integers(0, 256, (40, 2, 8, 8, 3), np.uint8)

    def ask(i: int) -> Any:
        return client.infer("colors", [tensor(batches[i])], request_id=str(i), client_timeout=PATIENCE_S)

    with ThreadPoolExecutor(8) as pool:
        for i, found in enumerate(pool.map(ask, range(40))):
            assert found.get_response().id == str(i)
            np.testing.assert_allclose(found.as_numpy("scores"), colors.scores(batches[i]), atol=1e-6)
    got: list[Any] = []
    done = threading.Event()

    def take(result: Any, error: Any) -> None:
        got.extend([result, error])
        done.set()

    client.async_infer("colors", [tensor(batches[0])], take)
    assert done.wait(PATIENCE_S)
    assert got[1] is None
    np.testing.assert_allclose(got[0].as_numpy("scores"), colors.scores(batches[0]), atol=1e-6)


def test_a_stream_is_answered_in_order_and_one_bad_request_fails_alone(client: Any, colors: Any) -> None:
    batches = np.random.default_rng(2).integers(0, 256, (100, 1, 8, 8, 3), np.uint8)
    got: list[tuple[Any, Any]] = []
    client.start_stream(lambda result, error: got.append((result, error)))
    for i, batch in enumerate(batches):
        name = "picture" if i == 50 else "image"
        client.async_stream_infer("colors", [tensor(batch, name)], request_id=str(i))
    until(lambda: len(got) == 100, "all must be answered")
    client.stop_stream()
    for i, (result, error) in enumerate(got):
        if i == 50:
            assert "inputs must be among image; got picture" in error.message()
            continue
        assert error is None
        assert result.get_response().id == str(i)
        assert result.get_response().parameters["triton_final_response"].bool_param
        np.testing.assert_allclose(result.as_numpy("scores"), colors.scores(batches[i]), atol=1e-6)


def test_every_call_of_the_asyncio_client(server: ServerThread, pixels: NDArray[np.uint8], colors: Any) -> None:
    async def use() -> None:
        async with triton_aio.InferenceServerClient(server.grpc) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("colors")
            assert (await client.get_server_metadata()).name == "loopworks"
            assert (await client.get_model_metadata("colors")).name == "colors"
            assert (await client.get_model_config("colors")).config.name == "colors"
            assert len((await client.get_model_repository_index()).models) == 1
            await client.unload_model("colors")
            await client.load_model("colors")
            found = await client.infer("colors", [tensor(pixels)])
            np.testing.assert_allclose(found.as_numpy("scores"), colors.scores(pixels), atol=1e-6)
            assert (await client.get_inference_statistics("colors")).model_stats[0].inference_count == 3
            assert (await client.get_trace_settings()).settings["trace_level"].value == ["OFF"]
            assert (await client.get_log_settings()).settings["log_error"].bool_param

            async def requests() -> Any:
                for i in range(5):
                    yield {"model_name": "colors", "inputs": [tensor(pixels)], "request_id": str(i)}

            ids = [result.get_response().id async for result, error in client.stream_infer(requests()) if not error]
            assert ids == list("01234")

    asyncio.run(asyncio.wait_for(use(), PATIENCE_S))


def test_repository_and_statistics(client: Any, pixels: NDArray[np.uint8]) -> None:
    def index() -> list[tuple[str, str, str, str]]:
        return [(m.name, m.version, m.state, m.reason) for m in client.get_model_repository_index().models]

    assert index() == [("colors", "1", "READY", "")]
    client.unload_model("colors")
    assert index() == [("colors", "1", "UNAVAILABLE", "unloaded")]
    with pytest.raises(InferenceServerException, match="'colors' does not exist"):
        client.infer("colors", [tensor(pixels)])
    client.load_model("colors")
    for _ in range(4):
        client.infer("colors", [tensor(pixels)])
    for found in (client.get_inference_statistics(), client.get_inference_statistics("colors", "1")):
        (stats,) = found.model_stats
        assert (stats.name, stats.version, stats.inference_count) == ("colors", "1", 12)
        assert stats.inference_stats.success.count == 4
        assert stats.inference_stats.compute_infer.ns > 0
        assert sum(one.compute_infer.count for one in stats.batch_stats) == stats.execution_count
    with pytest.raises(InferenceServerException, match="deployment 'other' does not exist"):
        client.load_model("other")
    with pytest.raises(
        InferenceServerException, match="a model is loaded as its deployment says; got parameters config"
    ):
        client.load_model("colors", config="{}")


def test_what_is_not_offered_is_refused_and_what_can_be_read_is_told(client: Any) -> None:
    assert client.get_trace_settings(as_json=True)["settings"]["trace_level"] == {"value": ["OFF"]}
    client.update_trace_settings("colors", {"trace_level": ["OFF"], "trace_rate": None})
    for settings in ({"trace_level": ["TIMESTAMPS"]}, {"trace_rate": "5"}):
        with pytest.raises(InferenceServerException, match="must stay") as caught:
            client.update_trace_settings(settings=settings)
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    now = client.get_log_settings(as_json=True)["settings"]
    assert now["log_error"] == {"bool_param": True}
    client.update_log_settings({"log_error": True})
    with pytest.raises(InferenceServerException, match="log_error must stay True"):
        client.update_log_settings({"log_error": False})
    with pytest.raises(InferenceServerException, match="must be among log_file"):
        client.update_log_settings({"volume": 11})
    assert not client.get_system_shared_memory_status().regions
    assert not client.get_cuda_shared_memory_status().regions
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    with pytest.raises(InferenceServerException, match="system shared memory is not offered"):
        client.register_system_shared_memory("a", "/a", 4)
    with pytest.raises(InferenceServerException, match="CUDA shared memory is not offered"):
        client.register_cuda_shared_memory("a", b"YQ==", 0, 4)


def test_errors_have_their_status_and_the_words_of_the_other_faces(bare: Bare, pixels: NDArray[np.uint8]) -> None:
    other = message(pixels)
    other.model_name = "other"
    assert refusal(lambda: bare.call("ModelInfer", other))[0] is grpc.StatusCode.NOT_FOUND
    code, words = refusal(lambda: bare.call("ModelInfer", message(pixels[:, :4])))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "input image shape must be [-1, 8, 8, 3] (-1: any from 1); got [3, 4, 8, 3]" in words
    wanted = message(pixels)
    wanted.outputs.add(name="boxes")
    assert "outputs must be among scores; got boxes" in refusal(lambda: bare.call("ModelInfer", wanted))[1]
    assert refusal(lambda: bare.call("ModelMetadata"))[0] is grpc.StatusCode.NOT_FOUND


def test_a_fault_of_ours_is_an_id_that_the_log_knows(
    server: ServerThread, bare: Bare, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server.serving.space, "deployments", lambda: 1 / 0)
    code, words = refusal(lambda: bare.call("RepositoryIndex"))
    assert code is grpc.StatusCode.INTERNAL
    mark = words.split()[2]
    assert any(mark in record.getMessage() and record.exc_info for record in caplog.records)


def test_messages_are_limited_packed_and_unpacked(space: lw.Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = space.settings.model_copy(update={"max_body_bytes": 200_000})
    monkeypatch.setattr(type(space), "settings", property(lambda self: settings))
    with ServerThread(space, grpc=True) as server:
        bare = Bare(server.grpc)
        large = message(np.zeros((2000, 8, 8, 3), np.uint8))
        for packing in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            code, _ = refusal(lambda: bare.call("ModelInfer", large, compression=packing))  # noqa: B023 - called at once
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        small = message(np.zeros((900, 8, 8, 3), np.uint8))
        assert len(gzip.compress(small.SerializeToString())) < 2000
        assert bare.call("ModelInfer", small, compression=grpc.Compression.Gzip).outputs[0].shape == [900, 3]
        bare.channel.close()


class Slow:
    """A predictor that holds its answers back until the gate opens."""

    gate = threading.Event()
    entered = threading.Event()
    rows: list[int] = []

    def __init__(self, real: Any) -> None:
        self.real = real

    def predict(self, batch: Any) -> Any:
        if int(batch["image"].max()) > 0:  # not the warm-up
            Slow.entered.set()
            assert Slow.gate.wait(PATIENCE_S)
            Slow.rows.append(int(batch["image"].max()))
        return self.real.predict(batch)

    def close(self) -> None:
        self.real.close()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Slow]]:
    load = predictors.load
    monkeypatch.setattr(predictors, "load", lambda *given, **more: Slow(load(*given, **more)))
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    Slow.gate.clear()
    Slow.entered.clear()
    Slow.rows.clear()
    yield Slow
    Slow.gate.set()


def full(value: int) -> inference_pb2.ModelInferRequest:
    return message(np.full((1, 8, 8, 3), value, np.uint8))


def test_who_leaves_or_has_a_deadline_leaves_the_queue(space: lw.Workspace, slow: type[Slow]) -> None:
    with ServerThread(space, grpc=True) as server:
        bare = Bare(server.grpc)
        waiting = server.serving.engine.model("colors")
        first = bare.start(full(9))
        assert slow.entered.wait(PATIENCE_S)
        leaving, staying = bare.start(full(7)), bare.start(full(5))
        until(lambda: waiting.waiting == 2, "both must wait")
        leaving.cancel()
        late = bare.start(full(3), timeout=0.2)
        assert late.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        short = full(2)
        short.parameters["timeout"].int64_param = 100_000
        code, words = refusal(lambda: bare.call("ModelInfer", short))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "must answer within 0.1 s" in words
        slow.gate.set()
        assert first.result().outputs[0].name == staying.result().outputs[0].name == "scores"
        text = _metrics(server)
        assert 'outcome="cancelled"' in text
        assert 'outcome="timed_out"' in text
        bare.channel.close()
    assert slow.rows == [9, 5]


def _metrics(server: ServerThread) -> str:
    from prometheus_client import generate_latest

    return generate_latest(server.serving.metrics.registry).decode()


def test_bytes_that_are_no_message_are_the_clients_fault(bare: Bare, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("ModelInfer", "RepositoryIndex"):
        call = bare.channel.unary_unary(f"/inference.GRPCInferenceService/{name}")
        code, words = refusal(lambda: call(b"\x0a\xffno message", timeout=PATIENCE_S))  # noqa: B023 - called at once
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert f"message must be a {name}Request" in words
    stream = bare.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    good = message(np.zeros((1, 8, 8, 3), np.uint8)).SerializeToString()
    answers = stream(iter([b"\x0a\xff", good]), timeout=PATIENCE_S)
    first, second = (inference_pb2.ModelStreamInferResponse.FromString(one) for one in answers)
    assert "message must be a ModelInferRequest" in first.error_message
    assert second.infer_response.model_name == "colors"
    assert not caplog.records


def test_rules_see_the_same_paths_as_over_http(server: ServerThread, bare: Bare) -> None:
    from loopworks.server import grpc_paths, protos
    from loopworks.server.app import ROUTES

    def is_route(method: str, path: str) -> bool:
        return any(re.fullmatch(re.sub(r"{\w+}", "[^/]+", r.path), path) and r.method == method for r in ROUTES)

    for method in protos.described("inference.proto").services_by_name["GRPCInferenceService"].methods:
        made = getattr(inference_pb2, method.input_type.name)()
        for field in ("name", "model_name"):
            if hasattr(made, field):
                setattr(made, field, "a/b")
        assert is_route(*grpc_paths.same(method.name, made)), method.name
    for name in ("Check", "Watch"):
        assert is_route(*grpc_paths.same(name, health_pb2.HealthCheckRequest()))
    asked: list[tuple[str, ...]] = []
    admitted = Rules.admitted

    def noted(self: Rules, *given: str) -> None:
        asked.append(given)
        admitted(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rules, "admitted", noted)
        bare.call("ModelInfer", message(np.zeros((1, 8, 8, 3), np.uint8)), metadata=(("authorization", "Bearer x"),))
    assert asked == [("Bearer x", "POST", "/v2/models/colors/infer", "127.0.0.1")]


def test_requests_are_counted(server: ServerThread, bare: Bare, pixels: NDArray[np.uint8]) -> None:
    bare.call("ModelInfer", message(pixels))
    refusal(lambda: bare.call("ModelInfer", message(pixels[:, :4])))
    text = _metrics(server)
    assert 'loopworks_requests_total{deployment="colors",outcome="done"} 1.0' in text
    assert 'loopworks_requests_total{deployment="colors",outcome="invalid"} 1.0' in text


def test_the_token_is_asked_for_everywhere_but_for_health(
    space: lw.Workspace, monkeypatch: pytest.MonkeyPatch, pixels: NDArray[np.uint8]
) -> None:
    settings = space.settings.model_copy(update={"token": "secret"})
    monkeypatch.setattr(type(space), "settings", property(lambda self: settings))
    with ServerThread(space, grpc=True) as server:
        bare = Bare(server.grpc)
        assert bare.call("ServerLive").live
        assert bare.call("ServerReady").ready
        assert bare.health("Check").status == health_pb2.HealthCheckResponse.SERVING
        for name in server_methods() - OPEN:
            sent = message(pixels) if name in ("ModelInfer", "ModelStreamInfer") else None
            for given in ((), (("authorization", "Bearer other"),), (("authorization", "secret"),)):
                if name == "ModelStreamInfer":
                    code, _ = refusal(lambda: list(_stream(bare, [sent], given)))  # noqa: B023 - called at once
                else:
                    code, _ = refusal(lambda: bare.call(name, sent, metadata=given))  # noqa: B023
                assert code is grpc.StatusCode.UNAUTHENTICATED, name
        right = (("authorization", "Bearer secret"),)
        assert bare.call("ModelInfer", message(pixels), metadata=right).model_name == "colors"
        assert len(list(_stream(bare, [message(pixels)], right))) == 1
        bare.channel.close()


def test_a_token_may_do_over_grpc_what_it_may_over_http(space: lw.Workspace, pixels: NDArray[np.uint8]) -> None:
    space.deploy("colors:1", "shop")
    made = {"all": space.add_token("all").text, "shop": space.add_token("shop", deployments=["shop"]).text}
    made["read"] = space.add_token("read", ["read"]).text
    with ServerThread(space, grpc=True) as server:
        bare = Bare(server.grpc)
        other = message(pixels)
        other.model_name = "shop"
        load = inference_pb2.RepositoryModelLoadRequest(model_name="colors")
        let_in = set()
        for name, text in made.items():
            how: Any = {"metadata": (("authorization", f"Bearer {text}"),)}
            assert bare.call("ServerMetadata", **how).name == "loopworks"
            for label, call in (
                ("colors", lambda how=how: bare.call("ModelInfer", message(pixels), **how)),
                ("shop", lambda how=how: bare.call("ModelInfer", other, **how)),
                ("stream", lambda how=how: list(_stream(bare, [message(pixels)], how["metadata"]))),
                ("index", lambda how=how: bare.call("RepositoryIndex", **how)),
                ("load", lambda how=how: bare.call("RepositoryModelLoad", load, **how)),
            ):
                try:
                    told = call()
                    if label == "stream" and told[0].error_message:  # each message of a stream is asked for its token
                        assert "must have the scope predict" in told[0].error_message
                        continue
                    let_in.add((name, label))
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.PERMISSION_DENIED:
                        raise
        bare.channel.close()
    asks = {("all", label) for label in ("colors", "shop", "stream", "index")}
    assert let_in == asks | {("shop", "shop"), ("read", "index")}


def test_a_canary_answers_over_grpc_by_key(
    space: lw.Workspace, pixels: NDArray[np.uint8], add_model: Any, colors: Any, tmp_path: Any
) -> None:
    second = add_model(space, colors.write(tmp_path / "second", weight=24.0))
    space.deploy(second.ref, "colors", canary=50)
    with ServerThread(space, grpc=True) as server:
        bare = Bare(server.grpc)
        for key in "abcdef":
            expected = "2" if point("colors", key) < 50 else "1"
            by_metadata = bare.call("ModelInfer", message(pixels), metadata=(("x-loopworks-key", key),))
            asked = message(pixels)
            asked.parameters["key"].string_param = key
            assert (by_metadata.model_version, bare.call("ModelInfer", asked).model_version) == (expected, expected)
        assert bare.call("ModelInfer", message(pixels, model_version="2")).model_version == "2"
        bare.channel.close()


def server_methods() -> set[str]:
    from loopworks.server import protos

    return set(protos.described("inference.proto").services_by_name["GRPCInferenceService"].methods_by_name)


def _stream(bare: Bare, sent: list[Any], metadata: Any = ()) -> Any:
    asked, told = inference_pb2.ModelInferRequest, inference_pb2.ModelStreamInferResponse
    path = "/inference.GRPCInferenceService/ModelStreamInfer"
    return bare.channel.stream_stream(path, asked.SerializeToString, told.FromString)(
        iter(sent), timeout=PATIENCE_S, metadata=metadata
    )


def test_every_method_of_the_text_is_answered(bare: Bare) -> None:
    for name in server_methods() - {"ModelStreamInfer"}:
        kind = getattr(inference_pb2, f"{name}Request")
        path = f"/inference.GRPCInferenceService/{name}"
        call = bare.channel.unary_unary(path, kind.SerializeToString, None).future(kind(), timeout=PATIENCE_S)
        assert "Method not found" not in str(call.exception()), name
        assert call.code() is not grpc.StatusCode.INTERNAL, name


def test_health_is_watched_until_the_end(space: lw.Workspace) -> None:
    words = health_pb2.HealthCheckResponse.DESCRIPTOR.fields_by_name["status"].enum_type.values_by_name
    with ServerThread(space, grpc=True) as server:
        bare = Bare(server.grpc)
        watch = bare.health("Watch", "inference.GRPCInferenceService")
        assert next(watch).status == words["SERVING"].number
        assert next(bare.health("Watch", "nobody")).status == words["SERVICE_UNKNOWN"].number
        assert refusal(lambda: bare.health("Check", "nobody"))[0] is grpc.StatusCode.NOT_FOUND
    assert next(watch).status == words["NOT_SERVING"].number
    bare.channel.close()


def test_streams_are_limited_and_one_that_ends_makes_room(
    space: lw.Workspace, monkeypatch: pytest.MonkeyPatch, pixels: NDArray[np.uint8]
) -> None:
    monkeypatch.setattr(grpc_server, "STREAMS", 1)
    with ServerThread(space, grpc=True) as server:
        bare = Bare(server.grpc)
        gate = threading.Event()

        def requests() -> Iterator[Any]:
            yield message(pixels)
            gate.wait(PATIENCE_S)

        first = _stream(bare, requests())  # type: ignore[arg-type]
        assert next(first).infer_response.model_name == "colors"
        code, words = refusal(lambda: list(_stream(bare, [message(pixels)])))
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "fewer streams must be open" in words
        first.cancel()
        gate.set()

        def has_room() -> bool:
            try:
                return len(list(_stream(bare, [message(pixels)]))) == 1
            except grpc.RpcError:
                return False

        until(has_room, "the stream that was left must end")
        bare.channel.close()


def test_a_port_in_use_is_said(space: lw.Workspace, server: ServerThread) -> None:
    settings = space.settings.model_copy(update={"grpc_port": int(server.grpc.rpartition(":")[2])})
    with pytest.raises(Conflict, match="must be free for gRPC"):
        grpc_server.GrpcServer(server.serving, Rules(settings, server.serving.tokens))


def test_nothing_is_left_when_it_has_stopped(space: lw.Workspace, pixels: NDArray[np.uint8]) -> None:
    threads = set(threading.enumerate())
    with ServerThread(space, grpc=True) as server:
        bare = Bare(server.grpc)
        bare.call("ModelInfer", message(pixels))
        bare.channel.close()

    def left() -> list[str]:
        names = [t.name for t in set(threading.enumerate()) - threads]
        return [name for name in names if not name.startswith("AnyIO worker") and "channel" not in name.lower()]

    until(lambda: left() == [], "threads must end")  # gRPC's own timer takes a moment
