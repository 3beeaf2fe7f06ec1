"""The Open Inference Protocol through a client that nobody here wrote, over a real socket."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import loopworks as lw
from loopworks.server.run import ServerThread

triton = pytest.importorskip("tritonclient.http", reason="needs the [demo] extra")
from tritonclient.utils import InferenceServerException  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(gevent|geventhttpclient|tritonclient)")


@pytest.fixture
def server(space: lw.Workspace) -> Iterator[ServerThread]:
    with ServerThread(space) as running:
        yield running


@pytest.fixture
def client(server: ServerThread) -> Iterator[Any]:
    made = triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=4)
    yield made
    made.close()


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)


def tensor(pixels: NDArray[np.uint8], *, is_binary: bool = True, name: str = "image") -> Any:
    made = triton.InferInput(name, list(pixels.shape), "UINT8")
    made.set_data_from_numpy(pixels, binary_data=is_binary)
    return made


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colors")
    assert client.is_model_ready("colors", "1")
    assert not client.is_model_ready("other")
    about = client.get_server_metadata()
    assert about["name"] == "loopworks"
    assert {"binary_tensor_data", "model_repository", "statistics"} <= set(about["extensions"])
    model = client.get_model_metadata("colors")
    assert model["versions"] == ["1"]
    assert model["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}]
    assert model["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}]
    config = client.get_model_config("colors")
    assert config["max_batch_size"] > 1
    assert config["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": [8, 8, 3]}]


@pytest.mark.parametrize("is_binary_in", [True, False])
@pytest.mark.parametrize("is_binary_out", [True, False, None])
def test_infer_in_every_mix_of_json_and_binary(
    client: Any, pixels: NDArray[np.uint8], colors: Any, is_binary_in: bool, is_binary_out: bool | None
) -> None:
    outputs = None if is_binary_out is None else [triton.InferRequestedOutput("scores", binary_data=is_binary_out)]
    found = client.infer("colors", [tensor(pixels, is_binary=is_binary_in)], outputs=outputs, request_id="42")
    np.testing.assert_allclose(found.as_numpy("scores"), colors.scores(pixels), atol=1e-6)
    answer = found.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("42", "colors", "1")
    assert found.as_numpy("other") is None


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_infer_with_compression_both_ways(client: Any, pixels: NDArray[np.uint8], colors: Any, algorithm: str) -> None:
    found = client.infer(
        "colors",
        [tensor(pixels)],
        model_version="1",
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_allclose(found.as_numpy("scores"), colors.scores(pixels), atol=1e-6)


def test_asynchronous_requests_keep_their_answers(client: Any, colors: Any) -> None:
    batches = np.random.default_rng(1).integers(0, 256, (20, 2, 8, 8, 3), np.uint8)
    asked = [client.async_infer("colors", [tensor(batch)], request_id=str(i)) for i, batch in enumerate(batches)]
    for i, request in enumerate(asked):
        found = request.get_result()
        assert found.get_response()["id"] == str(i)
        np.testing.assert_allclose(found.as_numpy("scores"), colors.scores(batches[i]), atol=1e-6)


def test_classification_gives_names(client: Any, pixels: NDArray[np.uint8], colors: Any) -> None:
    wanted = triton.InferRequestedOutput("scores", class_count=2)
    found = client.infer("colors", [tensor(pixels)], outputs=[wanted]).as_numpy("scores")
    assert found.shape == (3, 2)
    names = ("red", "green", "blue")
    best = [row[0].decode().split(":")[2] for row in found]
    assert best == [names[i] for i in colors.scores(pixels).argmax(axis=1)]


@pytest.mark.parametrize(
    ("inputs", "status", "words"),
    [
        (lambda x: [tensor(x[:, :4])], "400", "input image shape must be [-1, 8, 8, 3]"),
        (lambda x: [tensor(x, name="picture")], "400", "inputs must be among image; got picture"),
        (lambda x: [tensor(x), tensor(x, name="more")], "400", "inputs must be among image; got more"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(
    client: Any, pixels: NDArray[np.uint8], inputs: Callable[[Any], list[Any]], status: str, words: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("colors", inputs(pixels))
    assert caught.value.status() == status
    assert words in caught.value.message()


def test_unknown_models_versions_and_outputs(client: Any, pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(InferenceServerException, match="model 'other' does not exist"):
        client.infer("other", [tensor(pixels)])
    with pytest.raises(InferenceServerException, match="version of model 'colors' '9' does not exist"):
        client.get_model_metadata("colors", "9")
    with pytest.raises(InferenceServerException, match="outputs must be among scores; got boxes"):
        client.infer("colors", [tensor(pixels)], outputs=[triton.InferRequestedOutput("boxes")])


def test_the_repository_is_listed_unloaded_and_loaded(client: Any, pixels: NDArray[np.uint8]) -> None:
    ready = {"name": "colors", "version": "1", "state": "READY", "reason": ""}
    assert client.get_model_repository_index() == [ready]
    client.unload_model("colors")
    (gone,) = client.get_model_repository_index()
    assert (gone["state"], gone["reason"]) == ("UNAVAILABLE", "unloaded")
    assert not client.is_model_ready("colors")
    with pytest.raises(InferenceServerException):
        client.infer("colors", [tensor(pixels)])
    client.load_model("colors")
    assert client.get_model_repository_index() == [ready]
    client.infer("colors", [tensor(pixels)])
    with pytest.raises(InferenceServerException, match="deployment 'other' does not exist"):
        client.load_model("other")
    with pytest.raises(InferenceServerException, match="model 'other' does not exist"):
        client.unload_model("other")


def test_statistics_count_requests_rows_and_runs(client: Any, pixels: NDArray[np.uint8]) -> None:
    for _ in range(4):
        client.infer("colors", [tensor(pixels)])
    for found in (client.get_inference_statistics(), client.get_inference_statistics("colors", "1")):
        (model,) = found["model_stats"]
        assert (model["name"], model["version"]) == ("colors", "1")
        assert (model["inference_count"], model["execution_count"]) == (12, 4)
        parts = model["inference_stats"]
        assert parts["success"]["count"] == 4
        assert parts["fail"]["count"] == 0
        inner = sum(parts[name]["ns"] for name in ("queue", "compute_input", "compute_infer", "compute_output"))
        assert 0 < inner <= parts["success"]["ns"]
        assert model["batch_stats"] == [{"batch_size": 3, "compute_infer": parts["compute_infer"]}]


def test_64_clients_at_once_are_all_answered_rightly(server: ServerThread, colors: Any) -> None:
    batches = np.random.default_rng(2).integers(0, 256, (64, 1, 8, 8, 3), np.uint8)
    start = threading.Barrier(64)

    def ask(i: int) -> NDArray[np.float32]:
        client = triton.InferenceServerClient(server.url.removeprefix("http://"))
        try:
            start.wait(20)
            found: NDArray[np.float32] = client.infer("colors", [tensor(batches[i])]).as_numpy("scores")
            return found
        finally:
            client.close()

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(64)))
    np.testing.assert_allclose(np.concatenate(answers), colors.scores(batches[:, 0]), atol=1e-6)


def test_a_new_deployment_answers_without_a_restart(
    client: Any, space: lw.Workspace, tmp_path: Path, colors: Any, add_model: Any, pixels: NDArray[np.uint8]
) -> None:
    space.deploy(add_model(space, colors.write(tmp_path / "weak", weight=1.0)), name="colors")
    client.load_model("colors")
    found = client.infer("colors", [tensor(pixels)])
    assert found.get_response()["model_version"] == "2"
    np.testing.assert_allclose(found.as_numpy("scores"), colors.scores(pixels, 1.0), atol=1e-6)


def test_what_is_not_offered_is_refused_and_what_can_be_read_is_told(client: Any) -> None:
    assert client.get_trace_settings()["trace_level"] == ["OFF"]
    assert client.update_trace_settings("colors", {"trace_level": ["OFF"], "trace_rate": None})["trace_rate"] == "1000"
    with pytest.raises(InferenceServerException, match="trace_level must stay") as caught:
        client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})
    assert caught.value.status() == "501"
    with pytest.raises(InferenceServerException, match="model 'other' does not exist"):
        client.get_trace_settings("other")
    assert client.get_log_settings()["log_error"] is True
    assert client.update_log_settings({"log_error": True})["log_error"] is True
    with pytest.raises(InferenceServerException, match="log_verbose_level must stay 0; got 3"):
        client.update_log_settings({"log_verbose_level": 3})
    with pytest.raises(InferenceServerException, match="must be among log_file"):
        client.update_log_settings({"volume": 11})
    for kind in ("system", "cuda"):
        assert getattr(client, f"get_{kind}_shared_memory_status")() == []
        assert getattr(client, f"get_{kind}_shared_memory_status")("a") == []
        getattr(client, f"unregister_{kind}_shared_memory")()
        getattr(client, f"unregister_{kind}_shared_memory")("a")
    with pytest.raises(InferenceServerException, match="system shared memory is not offered"):
        client.register_system_shared_memory("a", "/a", 4)
    with pytest.raises(InferenceServerException, match="CUDA shared memory is not offered"):
        client.register_cuda_shared_memory("a", b"YQ==", 0, 4)


def test_a_model_is_loaded_as_its_deployment_says(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="got parameters config") as caught:
        client.load_model("colors", config="{}")
    assert caught.value.status() == "501"
    with pytest.raises(InferenceServerException, match="got parameters config, file:1/model.onnx"):
        client.load_model("colors", config="{}", files={"file:1/model.onnx": b"x"})
    client.unload_model("colors", unload_dependents=True)
    client.load_model("colors")


def test_every_call_of_the_asyncio_client(server: ServerThread, pixels: NDArray[np.uint8], colors: Any) -> None:
    aio = pytest.importorskip("tritonclient.http.aio")

    async def use() -> None:
        async with aio.InferenceServerClient(server.url.removeprefix("http://")) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("colors", "1")
            assert (await client.get_server_metadata())["name"] == "loopworks"
            assert (await client.get_model_metadata("colors"))["name"] == "colors"
            assert (await client.get_model_config("colors"))["name"] == "colors"
            await client.unload_model("colors")
            assert [one["state"] for one in await client.get_model_repository_index()] == ["UNAVAILABLE"]
            await client.load_model("colors")
            for packing in (None, "gzip", "deflate"):
                found = await client.infer(
                    "colors",
                    [tensor(pixels)],
                    request_compression_algorithm=packing,
                    response_compression_algorithm=packing,
                )
                np.testing.assert_allclose(found.as_numpy("scores"), colors.scores(pixels), atol=1e-6)
            (stats,) = (await client.get_inference_statistics("colors"))["model_stats"]
            assert stats["inference_count"] == 9
            assert (await client.get_trace_settings("colors"))["trace_level"] == ["OFF"]
            assert (await client.get_log_settings())["log_error"] is True
            assert await client.get_system_shared_memory_status() == []
            assert await client.get_cuda_shared_memory_status() == []

    asyncio.run(asyncio.wait_for(use(), 20))
