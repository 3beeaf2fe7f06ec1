"""What is told of gRPC calls: access log, request ids, traces, metrics; and when a refused client may ask again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import loopworks as lw
from loopworks.server.protos import inference_pb2 as pb
from loopworks.server.protos import status_pb2
from loopworks.server.run import ServerThread
from loopworks.server.telling import Telling

SERVICE = "/inference.GRPCInferenceService"
PATIENCE_S = 20.0
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def message(model: str = "colors", size: int = 8, **fields: Any) -> pb.ModelInferRequest:
    pixels = np.full((1, size, size, 3), 9, np.uint8)
    made = pb.ModelInferRequest(model_name=model, raw_input_contents=[pixels.tobytes()], **fields)
    made.inputs.add(name="image", datatype="UINT8", shape=pixels.shape)
    return made


def call(address: str, method: str, sent: bytes, *metadata: tuple[str, str]) -> grpc.Call:
    """A unary call that has ended, well or not, with all that its client sees."""
    with grpc.insecure_channel(address) as channel:
        ended = channel.unary_unary(method).future(sent, timeout=PATIENCE_S, metadata=metadata)
        ended.exception()
        assert isinstance(ended, grpc.Call)
        ended.initial_metadata()
        return ended


def stream(address: str, sent: list[pb.ModelInferRequest], *metadata: tuple[str, str]) -> list[bytes]:
    with grpc.insecure_channel(address) as channel:
        asked = channel.stream_stream(f"{SERVICE}/ModelStreamInfer")
        return list(asked(iter([one.SerializeToString() for one in sent]), timeout=PATIENCE_S, metadata=metadata))


@pytest.fixture
def settle(space: lw.Workspace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``settle(name=value)`` changes settings of ``space``."""

    def change(**more: Any) -> None:
        settings = space.settings.model_validate({**space.settings.model_dump(), **more})
        monkeypatch.setattr(type(space), "settings", property(lambda self: settings))

    return change


def test_each_call_and_each_message_of_a_stream_writes_a_line(
    space: lw.Workspace, settle: Callable[..., None], tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    settle(access_log="json", access_log_file=str(path))
    token = ("authorization", f"Bearer {space.add_token('ci', ['write']).text}")
    with ServerThread(space, grpc=True) as server:
        infer = f"{SERVICE}/ModelInfer"
        good = call(server.grpc, infer, message().SerializeToString(), token, ("x-request-id", "mine.1"))
        ended = [
            good,
            call(server.grpc, infer, message().SerializeToString()),
            call(server.grpc, infer, message(size=4).SerializeToString(), token),
            call(server.grpc, infer, b"\x0a\xff", token),
            call(server.grpc, "/other.Service/Do", b"", token),
            call(server.grpc, "/grpc.health.v1.Health/Check", b""),
        ]
        told = stream(server.grpc, [message(id="first"), message("none", id="a b")], token)
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(one["path"], one["status"], one["code"], one["token"], one["model"]) for one in found[:6]] == [
        (infer, 200, "OK", "ci", "colors/1"),
        (infer, 401, "UNAUTHENTICATED", "", ""),
        (infer, 400, "INVALID_ARGUMENT", "ci", ""),
        (infer, 400, "INVALID_ARGUMENT", "", ""),
        ("/other.Service/Do", 405, "UNIMPLEMENTED", "ci", ""),
        ("/grpc.health.v1.Health/Check", 200, "OK", "", ""),
    ]
    assert [one.code().name for one in ended] == [one["code"] for one in found[:6]]
    for one, line in zip(ended, found, strict=False):
        assert dict(one.initial_metadata())["x-request-id"] == line["request_id"]
    assert found[0]["request_id"] == "mine.1"
    assert found[0]["bytes"] == len(good.result())
    assert len({one["request_id"] for one in found}) == len(found)
    assert {(one["method"], one["address"]) for one in found} == {("GRPC", "127.0.0.1")}
    assert all(0 < one["ms"] < 20_000 for one in found)
    assert [(one["path"].rpartition("/")[2], one["status"], one["code"], one["model"]) for one in found[6:]] == [
        ("message", 200, "OK", "colors/1"),
        ("message", 404, "NOT_FOUND", ""),
        ("ModelStreamInfer", 200, "OK", ""),
    ]
    assert found[6]["request_id"] == "first"
    assert found[7]["request_id"] != "a b"  # it could forge a line
    assert [one["bytes"] for one in found[6:]] == [len(told[0]), len(told[1]), len(told[0]) + len(told[1])]
    http = {"time", "method", "path", "status", "ms", "bytes", "token", "address", "model", "request_id"}
    assert set(found[0]) == http | {"code"}


def test_a_stream_that_its_client_leaves_is_noted(
    space: lw.Workspace, settle: Callable[..., None], tmp_path: Path
) -> None:
    path = tmp_path / "access.log"
    settle(access_log="text", access_log_file=str(path))
    with ServerThread(space, grpc=True) as server, grpc.insecure_channel(server.grpc) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=PATIENCE_S)
        next(watch)
        watch.cancel()
    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert '"GRPC /grpc.health.v1.Health/Watch" CANCELLED' in line


def test_without_a_log_only_the_clients_own_id_comes_back(space: lw.Workspace) -> None:
    with ServerThread(space, grpc=True) as server:
        sent = f"{SERVICE}/ServerLive", b""
        assert dict(call(server.grpc, *sent, ("x-request-id", "a-1")).initial_metadata())["x-request-id"] == "a-1"
        assert "x-request-id" not in dict(call(server.grpc, *sent).initial_metadata())


@pytest.fixture
def spans() -> Any:
    pytest.importorskip("opentelemetry.sdk", reason="needs the [telemetry] extra")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from loopworks.server.tracing import Tracing

    memory = InMemorySpanExporter()
    return Tracing(SimpleSpanProcessor(memory)), memory


def test_a_trace_goes_on_in_a_call_and_in_the_messages_of_a_stream(
    space: lw.Workspace, spans: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing, memory = spans
    monkeypatch.setattr("loopworks.server.serving.Telling", lambda settings: Telling(settings, tracing))
    with ServerThread(space, grpc=True) as server:
        call(server.grpc, f"{SERVICE}/ModelInfer", message().SerializeToString(), ("traceparent", PARENT))
        call(server.grpc, f"{SERVICE}/ModelInfer", message("none").SerializeToString())
        stream(server.grpc, [message()], ("traceparent", PARENT))
    found = list(memory.get_finished_spans())
    tops = [span for span in found if span.attributes.get("rpc.system") == "grpc"]
    infer = f"{SERVICE[1:]}/ModelInfer"
    whole = f"{SERVICE[1:]}/ModelStreamInfer"
    assert [span.name for span in tops] == [infer, infer, f"{whole}/message", whole]
    good, bad, part, _ = tops
    assert [span.attributes["rpc.grpc.status_code"] for span in tops] == [0, 5, 0, 0]
    assert (good.attributes["rpc.service"], good.attributes["rpc.method"]) == (SERVICE[1:], "ModelInfer")
    assert good.attributes["loopworks.model"] == "colors/1"
    assert "http.request.method" not in good.attributes
    for span in (good, part):
        assert f"{span.context.trace_id:032x}" == PARENT.split("-")[1]
        assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]
        below = [one for one in found if one.parent is not None and one.parent.span_id == span.context.span_id]
        assert [one.name for one in below] == ["decode", "queue", "compute"]
        assert all(span.start_time <= one.start_time <= one.end_time <= span.end_time + 1_000_000 for one in below)
        assert below[2].end_time > below[2].start_time
    assert bad.parent is None


def test_a_stream_asks_message_by_message_what_its_token_may(space: lw.Workspace) -> None:
    space.deploy("colors:1", "shop")
    token = ("authorization", f"Bearer {space.add_token('shop', deployments=['shop']).text}")
    with ServerThread(space, grpc=True) as server:
        told = stream(server.grpc, [message("shop"), message("colors"), message("shop")], token)
    first, refused, third = (pb.ModelStreamInferResponse.FromString(one) for one in told)
    assert [first.infer_response.model_name, third.infer_response.model_name] == ["shop", "shop"]
    assert "token 'shop' must have the scope predict of deployment 'colors'" in refused.error_message
    assert not refused.infer_response.model_name


def test_calls_are_counted_by_method_and_code(space: lw.Workspace) -> None:
    with ServerThread(space, grpc=True) as server:
        call(server.grpc, f"{SERVICE}/ModelInfer", message().SerializeToString())
        call(server.grpc, f"{SERVICE}/ModelInfer", message("none").SerializeToString())
        for made_up in "ab":
            call(server.grpc, f"/other.Service/{made_up}", b"")
        stream(server.grpc, [message(), message()])
        text = server.serving.metrics.text().decode()
    told = 'loopworks_grpc_calls_total{code="%s",method="%s"} %s'
    for line in (
        told % ("OK", "ModelInfer", 1.0),
        told % ("NOT_FOUND", "ModelInfer", 1.0),
        told % ("UNIMPLEMENTED", "unknown", 2.0),
        told % ("OK", "ModelStreamInfer", 1.0),
        'loopworks_grpc_call_seconds_count{method="ModelInfer"} 2.0',
        'loopworks_requests_total{deployment="colors",outcome="done"} 3.0',
    ):
        assert line in text


def test_who_asks_too_often_is_told_when_to_ask_again(space: lw.Workspace, settle: Callable[..., None]) -> None:
    settle(requests_per_s_address=0.25)
    with ServerThread(space, grpc=True) as server:
        sent = f"{SERVICE}/ServerLive", b""
        first, second = call(server.grpc, *sent), call(server.grpc, *sent)
    assert first.code() is grpc.StatusCode.OK
    assert second.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    told: dict[str, Any] = dict(second.trailing_metadata())
    assert told["retry-after"] in ("3", "4")
    status = status_pb2.Status.FromString(told["grpc-status-details-bin"])
    assert (status.code, status.message) == (8, second.details())
    (detail,) = status.details
    wait = status_pb2.RetryInfo.FromString(detail.value).retry_delay
    assert 2 < wait.seconds + wait.nanos / 1e9 <= 4
    google = pytest.importorskip("google.rpc.error_details_pb2", reason="what clients read it by, with [telemetry]")
    theirs = pytest.importorskip("google.rpc.status_pb2").Status.FromString(told["grpc-status-details-bin"])
    read = google.RetryInfo()
    assert theirs.details[0].Unpack(read)
    assert read.retry_delay.seconds == wait.seconds
