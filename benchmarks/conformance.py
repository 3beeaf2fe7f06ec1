"""Whether the protocol's clients, a fuzzer and a real Triton agree with us: ``python -m benchmarks conformance``.

Needs ``.peers/kserve``, ``.peers/schemathesis`` and ``.peers/triton`` (``make peers``); what is not installed is left
out and said. The model is softmax(12 x mean colour), as ONNX here and in NumPy inside Triton. Each figure is a share
that must be 1, or a count that must be 0; what differs is printed below it.
"""

import json
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

import loopworks as lw
from benchmarks.figure import Figure
from loopworks.core.bundle import Bundle, Variant, write
from loopworks.core.values import ImageRule, LabelSchema, TensorSpec
from loopworks.server.run import ServerThread
from loopworks.store import bundles, models

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "benchmarks" / "peers"
PATIENCE_S = 120.0
EXAMPLES = 60
"""Of the fuzzer, per operation."""
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
HEADER = "Inference-Header-Content-Length"


def main() -> list[Figure]:
    """Shares of what agrees."""
    with tempfile.TemporaryDirectory(prefix="loopworks-conformance-") as name, ExitStack() as opened:
        folder = Path(name)
        space = opened.enter_context(lw.open(folder / "space"))
        made = _model(space, folder / "bundle")
        space.deploy(made, name="colors")
        server = opened.enter_context(ServerThread(space, grpc=True))
        pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
        np.save(folder / "pixels.npy", pixels)
        return [
            *_kserve(server, folder / "pixels.npy", pixels),
            *_manifest(space.pack_edge(made, folder / "edge", kserve=True).path / "kserve.yaml"),
            *_schemathesis(server, folder),
            *_triton(server, pixels),
        ]


def _python(peer: str) -> Path | None:
    found = ROOT / ".peers" / peer / "bin" / "python"
    if not found.exists():
        print(f"left out: .peers/{peer} is not installed (make peers)", file=sys.stderr)
        return None
    return found


def scores(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What the model must answer."""
    logits = pixels.astype(np.float64).mean(axis=(1, 2)) * 12 / 255
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=1, keepdims=True))


# ---- KServe's clients


def _kserve(server: ServerThread, path: Path, pixels: NDArray[np.uint8]) -> list[Figure]:
    if (python := _python("kserve")) is None:
        return []
    command = [str(python), str(PEERS / "use_kserve.py"), server.url, server.grpc, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode:
        raise RuntimeError(f"KServe's clients must run; got: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    wrong = {name: said for name, said in found.items() if not _is_right(said, pixels)}
    for name, said in wrong.items():
        print(f"  kserve {name}: {said}", file=sys.stderr)
    share = 1 - len(wrong) / len(found)
    return [_share("conformance.kserve", share, f"{len(found)} calls of KServe's REST and gRPC clients")]


def _is_right(said: Any, pixels: NDArray[np.uint8]) -> bool:
    if said is True:
        return True
    if not isinstance(said, list) or said[0] != "7":
        return False
    return bool(np.allclose(np.array(said[1]).reshape(len(pixels), 3), scores(pixels), atol=2e-5))


HARMS: Mapping[str, Callable[[Any], object]] = {
    "version": lambda body: body.update(apiVersion="v1"),
    "unknown_of_kserve": lambda body: body["spec"]["predictor"].update(replicas=1),
    "unknown_of_kubernetes": lambda body: body["spec"]["predictor"]["containers"][0].update(port=1),
    "quantity": lambda body: body["spec"]["predictor"]["containers"][0]["resources"]["limits"].update(memory="2 GB"),
    "type": lambda body: body["spec"]["predictor"]["containers"][0]["ports"][0].update(containerPort="8080"),
    "required": lambda body: body["spec"]["predictor"]["containers"][0].pop("name"),
}
"""What the check must see: one that finds nothing in these finds nothing at all."""


def _manifest(path: Path) -> list[Figure]:
    """Our InferenceService by KServe's and Kubernetes' own classes, and some that are wrong."""
    if (python := _python("kserve")) is None:
        return []
    paths = {"ours": path}
    for name, harm in HARMS.items():
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
        harm(body)
        paths[name] = path.with_name(f"{name}.yaml")
        paths[name].write_text(yaml.safe_dump(body), encoding="utf-8")
    command = [str(python), str(PEERS / "use_kserve_models.py"), *map(str, paths.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode:
        raise RuntimeError(f"KServe's classes must be there; got: {done.stderr[-2000:]}")
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    faults = found[str(path)]
    for fault in faults:
        print(f"  manifest: {fault}", file=sys.stderr)
    unseen = [name for name in HARMS if not found[str(paths[name])]]
    detail = f"faults of our manifest by KServe's classes; of {len(HARMS)} wrong ones unseen: {unseen or 'none'}"
    value = len(faults) + len(unseen)
    return [Figure(name="conformance.kserve_manifest", value=value, unit="faults", target=0, detail=detail)]


# ---- schemathesis


def _schemathesis(server: ServerThread, folder: Path) -> list[Figure]:
    """The protocol's part of our OpenAPI document, with the path's model replaced by one that is there."""
    if (python := _python("schemathesis")) is None:
        return []
    (folder / "schemathesis.toml").write_text('[parameters]\n"path.model" = "colors"\n"path.version" = "1"\n')
    command = [
        str(python.parent / "schemathesis"),
        "--config-file",
        str(folder / "schemathesis.toml"),
        "run",
        f"{server.url}/openapi.json",
        "--include-path-regex=^/v2",
        # unload takes away the model that the others ask
        "--exclude-path-regex=/unload$",
        f"--checks={','.join(CHECKS)}",
        f"--max-examples={EXAMPLES}",
        "--seed=1",
        "--workers=1",
        "--no-color",
        "--generation-database=none",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False, cwd=folder)
    text = done.stdout + done.stderr
    ran = re.search(r"(\d+) generated", text)
    failed = re.search(r"found (\d+) unique failures", text)
    if done.returncode not in (0, 1) or ran is None:
        raise RuntimeError(f"schemathesis must run; got: {text[-3000:]}")
    if done.returncode:
        print(text[-6000:], file=sys.stderr)
    many = int(failed[1]) if failed else int(done.returncode != 0)
    detail = f"{ran[1]} requests, checks {', '.join(CHECKS)}"
    return [Figure(name="conformance.schemathesis_failures", value=many, unit="failures", target=0, detail=detail)]


# ---- a real Triton


def _triton(server: ServerThread, pixels: NDArray[np.uint8]) -> list[Figure]:
    if (python := _python("triton")) is None:
        return []
    with _oracle(python) as (http, grpc):
        address = server.url.removeprefix("http://")
        pairs = [(name, ask(address), ask(http)) for name, ask in _rest_cases(pixels)]
        pairs += [(name, ask(server.grpc), ask(grpc)) for name, ask in _grpc_cases(pixels)]
    differing = [(name, ours, theirs) for name, ours, theirs in pairs if not _same(ours, theirs)]
    wrong = [one for one in differing if one[0] not in ON_PURPOSE]
    for name, ours, theirs in wrong:
        print(f"  triton {name}:\n    ours   {ours}\n    theirs {theirs}", file=sys.stderr)
    for name in sorted(ON_PURPOSE.keys() - {one[0] for one in differing}):
        print(f"  triton {name}: agrees, and needs no exception any more", file=sys.stderr)
    many = len(pairs) - len(ON_PURPOSE)
    detail = (
        f"{many} requests over REST and gRPC, answers compared part by part; {len(ON_PURPOSE)} more differ on purpose"
    )
    return [_share("conformance.triton", 1 - len(wrong) / many, detail)]


_OURS = "a fault of the request is 400 here, and 500 there"
_NAMED = "what does not exist is NOT_FOUND here"
_EMPTY = "pytriton's server has no repository to list"
ON_PURPOSE = {
    "unknown stats": _NAMED,
    "grpc unknown stats": _NAMED,
    "load unknown": _NAMED,
    "index": _EMPTY,
    "index of ready ones": _EMPTY,
    "grpc index": _EMPTY,
    "no input": _OURS,
    "too few elements": _OURS,
    "negative side": _OURS,
    "text for numbers": _OURS,
    "no JSON": _OURS,
    "out of range": "999 as UINT8 is refused here, and becomes 231 there",
    "grpc two raw": "a raw tensor that belongs to no input is refused here, and ignored there",
}
"""Request -> why our answer is another than Triton's."""


@contextmanager
def _oracle(python: Path) -> Iterator[tuple[str, str]]:
    ports = [_free_port() for _ in range(3)]
    command = [str(python), str(PEERS / "use_triton_server.py"), *map(str, ports)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    ready = threading.Event()

    def read(lines: Any) -> None:
        for line in lines:
            if line.strip() == "ready":
                ready.set()

    threading.Thread(target=read, args=(process.stdout,), daemon=True).start()
    try:
        if not ready.wait(PATIENCE_S):
            raise RuntimeError("Triton must be ready; it is not")
        yield f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"
    finally:
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


Case = tuple[str, Callable[[str], Any]]


def _rest_cases(pixels: NDArray[np.uint8]) -> list[Case]:
    """Requests as bytes; of an answer the status and what the protocol fixes."""
    raw = pixels.tobytes()
    one: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape)}
    flat = {**one, "data": pixels.reshape(-1).tolist()}
    nested = {**one, "data": pixels.tolist()}
    binary = {**one, "parameters": {"binary_data_size": len(raw)}}
    infer = "/v2/models/colors/infer"

    def json_case(name: str, body: Any, path: str = infer) -> Case:
        return name, lambda at: _rest(at, "POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())

    def binary_case(name: str, head: Any, tail: bytes, length: int | None = None) -> Case:
        text = json.dumps(head).encode()
        headers = {HEADER: str(len(text) if length is None else length)}
        return name, lambda at: _rest(at, "POST", infer, text + tail, headers)

    wanted = [{"name": "scores", "parameters": {"binary_data": True}}]
    return [
        ("live", lambda at: _rest(at, "GET", "/v2/health/live", only_status=True)),
        ("ready", lambda at: _rest(at, "GET", "/v2/health/ready", only_status=True)),
        ("model ready", lambda at: _rest(at, "GET", "/v2/models/colors/ready", only_status=True)),
        ("version ready", lambda at: _rest(at, "GET", "/v2/models/colors/versions/1/ready", only_status=True)),
        ("metadata", lambda at: _rest(at, "GET", "/v2/models/colors", drop=("platform", "parameters"))),
        (
            "version metadata",
            lambda at: _rest(at, "GET", "/v2/models/colors/versions/1", drop=("platform", "parameters")),
        ),
        ("unknown metadata", lambda at: _rest(at, "GET", "/v2/models/other")),
        ("unknown version", lambda at: _rest(at, "GET", "/v2/models/colors/versions/9")),
        ("unknown stats", lambda at: _rest(at, "GET", "/v2/models/other/stats")),
        ("trace", lambda at: _rest(at, "GET", "/v2/trace/setting", drop=("trace_mode",))),
        ("log", lambda at: _rest(at, "GET", "/v2/logging", drop=("log_info", "log_format"))),
        ("index", lambda at: _rest(at, "POST", "/v2/repository/index", b"{}")),
        ("index of ready ones", lambda at: _rest(at, "POST", "/v2/repository/index", b'{"ready": true}')),
        ("load unknown", lambda at: _rest(at, "POST", "/v2/repository/models/other/load", b"{}")),
        ("shared memory", lambda at: _rest(at, "GET", "/v2/systemsharedmemory/status")),
        ("cuda memory", lambda at: _rest(at, "GET", "/v2/cudasharedmemory/status")),
        json_case("flat", {"id": "42", "inputs": [flat]}),
        json_case("nested", {"inputs": [nested]}),
        json_case("version", {"inputs": [flat]}, "/v2/models/colors/versions/1/infer"),
        json_case("chosen output", {"inputs": [flat], "outputs": [{"name": "scores"}]}),
        json_case(
            "classified", {"inputs": [flat], "outputs": [{"name": "scores", "parameters": {"classification": 2}}]}
        ),
        json_case("binary answer", {"inputs": [flat], "outputs": wanted}),
        json_case("all binary", {"inputs": [flat], "parameters": {"binary_data_output": True}}),
        binary_case("binary", {"inputs": [binary]}, raw),
        binary_case("binary both ways", {"id": "b", "inputs": [binary], "outputs": wanted}, raw),
        ("raw body", lambda at: _rest(at, "POST", infer, raw[:192], {HEADER: "0"})),
        binary_case("binary cut", {"inputs": [binary]}, raw[:-1]),
        binary_case("binary too long", {"inputs": [binary]}, raw + b"x"),
        binary_case("header too long", {"inputs": [binary]}, raw, 1 << 20),
        json_case("no inputs", {"inputs": []}),
        json_case("no input", {}),
        json_case("unknown input", {"inputs": [{**flat, "name": "picture"}]}),
        json_case("unknown output", {"inputs": [flat], "outputs": [{"name": "boxes"}]}),
        json_case("wrong shape", {"inputs": [{**flat, "shape": [3, 4, 16, 3]}]}),
        json_case("wrong type", {"inputs": [{**flat, "datatype": "FP32"}]}),
        json_case("unknown type", {"inputs": [{**flat, "datatype": "COMPLEX"}]}),
        json_case("too few elements", {"inputs": [{**flat, "data": [1, 2]}]}),
        json_case("negative side", {"inputs": [{**flat, "shape": [-3, 8, 8, 3]}]}),
        json_case("out of range", {"inputs": [{**flat, "data": [999] * 576}]}),
        json_case("text for numbers", {"inputs": [{**flat, "data": ["a"] * 576}]}),
        json_case("no JSON", b"{"),
        json_case("unknown model", {"inputs": [flat]}, "/v2/models/other/infer"),
        json_case("unknown version of infer", {"inputs": [flat]}, "/v2/models/colors/versions/9/infer"),
        ("wrong method", lambda at: _rest(at, "GET", infer)),
        ("unknown route", lambda at: _rest(at, "GET", "/v2/nothing")),
    ]


def _rest(
    at: str,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    *,
    drop: tuple[str, ...] = (),
    only_status: bool = False,
) -> Any:
    host, _, port = at.partition(":")
    line = HTTPConnection(host, int(port), timeout=30)
    try:
        line.request(method, path, body, headers or {})
        reply = line.getresponse()
        content = reply.read()
        length = reply.headers.get(HEADER)
        if only_status or reply.status >= 400:
            is_told = only_status or "error" in json.loads(content or b"{}")
            return {"status": reply.status, "has words": is_told}
        head, tail = (content, b"") if length is None else (content[: int(length)], content[int(length) :])
        found = json.loads(head)
        if isinstance(found, dict):
            found = {k: v for k, v in found.items() if k not in drop}
        return {"status": reply.status, "body": found, "raw": _floats(tail)}
    finally:
        line.close()


def _floats(raw: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(raw) // 4}f", raw[: len(raw) // 4 * 4]))


def _grpc_cases(pixels: NDArray[np.uint8]) -> list[Case]:
    """Calls with the protocol's own messages; of an answer the message, of an error its status."""
    import grpc

    from loopworks.server.protos import inference_pb2 as pb

    def call(name: str, message: Any) -> Callable[[str], Any]:
        def ask(at: str) -> Any:
            kind = getattr(pb, f"{name}Response")
            with grpc.insecure_channel(at) as channel:
                path = f"/inference.GRPCInferenceService/{name}"
                try:
                    found = channel.unary_unary(path, type(message).SerializeToString, kind.FromString)(
                        message, timeout=30
                    )
                except grpc.RpcError as error:
                    return {"code": error.code().name, "has words": bool(error.details())}
            return _message(found)

        return ask

    def infer(change: Callable[[Any], Any] | None = None, *, typed: bool = False) -> Callable[[str], Any]:
        message = pb.ModelInferRequest(model_name="colors", id="9")
        message.inputs.add(name="image", datatype="UINT8", shape=pixels.shape)
        if typed:
            message.inputs[0].contents.uint_contents.extend(pixels.reshape(-1).tolist())
        else:
            message.raw_input_contents.append(pixels.tobytes())
        if change is not None:
            change(message)
        return call("ModelInfer", message)

    def classified(message: Any) -> None:
        message.outputs.add(name="scores").parameters["classification"].int64_param = 2

    return [
        ("grpc live", call("ServerLive", pb.ServerLiveRequest())),
        ("grpc ready", call("ServerReady", pb.ServerReadyRequest())),
        ("grpc model ready", call("ModelReady", pb.ModelReadyRequest(name="colors"))),
        ("grpc model ready, version", call("ModelReady", pb.ModelReadyRequest(name="colors", version="1"))),
        ("grpc unknown ready", call("ModelReady", pb.ModelReadyRequest(name="other"))),
        ("grpc metadata", call("ModelMetadata", pb.ModelMetadataRequest(name="colors"))),
        ("grpc unknown metadata", call("ModelMetadata", pb.ModelMetadataRequest(name="other"))),
        ("grpc unknown config", call("ModelConfig", pb.ModelConfigRequest(name="other"))),
        ("grpc unknown stats", call("ModelStatistics", pb.ModelStatisticsRequest(name="other"))),
        ("grpc index", call("RepositoryIndex", pb.RepositoryIndexRequest())),
        ("grpc trace", call("TraceSetting", pb.TraceSettingRequest())),
        ("grpc infer raw", infer()),
        ("grpc infer typed", infer(typed=True)),
        ("grpc classified", infer(classified)),
        ("grpc chosen output", infer(lambda m: m.outputs.add(name="scores"))),
        ("grpc unknown output", infer(lambda m: m.outputs.add(name="boxes"))),
        ("grpc wrong name", infer(lambda m: setattr(m.inputs[0], "name", "picture"))),
        ("grpc wrong type", infer(lambda m: setattr(m.inputs[0], "datatype", "INT8"))),
        ("grpc wrong shape", infer(lambda m: m.inputs[0].shape.append(1))),
        ("grpc raw cut", infer(lambda m: m.raw_input_contents.__setitem__(0, b"x"))),
        ("grpc raw and typed", infer(lambda m: m.inputs[0].contents.uint_contents.append(1))),
        ("grpc two raw", infer(lambda m: m.raw_input_contents.append(b"x"))),
        ("grpc no inputs", infer(lambda m: (m.ClearField("inputs"), m.ClearField("raw_input_contents")))),
        ("grpc unknown model", infer(lambda m: setattr(m, "model_name", "other"))),
        ("grpc unknown version", infer(lambda m: setattr(m, "model_version", "9"))),
    ]


def _message(found: Any) -> Any:
    from google.protobuf import json_format

    body = json_format.MessageToDict(found)
    if "rawOutputContents" in body:
        body["rawOutputContents"] = [_floats(raw) for raw in found.raw_output_contents]
        if body["outputs"][0]["datatype"] == "BYTES":
            body["rawOutputContents"] = [_texts(raw) for raw in found.raw_output_contents]
    for extra in ("platform", "properties"):
        body.pop(extra, None)
    body.get("settings", {}).pop("trace_mode", None)
    return {"code": "OK", "body": body}


def _texts(raw: bytes) -> list[str]:
    found, at = [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        found.append(raw[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return found


def _same(ours: Any, theirs: Any) -> bool:
    """Equal; numbers to 1e-5 (one computes with ONNX, the other with NumPy); a class may have its name behind it."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return set(ours) == set(theirs) and all(_same(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    if isinstance(ours, float) and isinstance(theirs, float):
        return bool(np.isclose(ours, theirs, atol=1e-5))
    if isinstance(ours, str) and isinstance(theirs, str) and re.match(r"\d\.\d+:\d", ours):
        (score, place), (other, same) = ours.split(":")[:2], theirs.split(":")[:2]
        return place == same and bool(np.isclose(float(score), float(other), atol=1e-5))
    return bool(ours == theirs)


def _share(name: str, value: float, detail: str) -> Figure:
    return Figure(name=name, value=value, unit="share", target=1, at_least=True, detail=detail)


def _model(space: lw.Workspace, folder: Path) -> str:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir()
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
    ]
    weights = [
        numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
        numpy_helper.from_array(np.array(12 / 255, np.float32), "weight"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 8, 8, 3])
    answer = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "colors", [image], [answer], weights)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "model.onnx"
    )
    variant = Variant(
        name="onnx-fp32", runtime="onnxruntime", precision="fp32", file="model.onnx", files=("model.onnx",)
    )
    bundle = Bundle(
        task="image-classification",
        schema=LabelSchema(classes=("red", "green", "blue")),
        rule=ImageRule(height=8, width=8),
        inputs=(TensorSpec(name="image", datatype="UINT8", shape=(-1, 8, 8, 3)),),
        outputs=(TensorSpec(name="scores", datatype="FP32", shape=(-1, 3)),),
        version="0" * 64,
        recipe="train.none",
        variants=(variant,),
        chosen="onnx-fp32",
    )
    key = bundles.save(space.home.blobs, write(bundle, folder).folder)
    with space.home.catalog.begin() as tx:
        done = models.add(
            tx, "colors", bundle=key, run="", version=bundle.version, task=bundle.task, variant="onnx-fp32"
        )
    shutil.rmtree(folder)
    return done.ref
