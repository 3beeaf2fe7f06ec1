"""The Open Inference Protocol v2 over REST, with the binary tensor, model repository and statistics extensions.

A deployment is a model here, its revision the model's version.
"""

import asyncio
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from loopworks import __version__
from loopworks.core.errors import Cancelled
from loopworks.core.values import TensorSpec
from loopworks.infer.engine import Served
from loopworks.server import answer
from loopworks.server.inferring import Asked, Inferring
from loopworks.server.route import Api
from loopworks.server.serving import Serving
from loopworks.server.telling import NOTE, Note
from loopworks.server.waiting import unless_gone

EXTENSIONS = ["binary_tensor_data", "model_repository", "model_configuration", "statistics", "classification"]
PLATFORMS = {"onnxruntime": "onnx_onnxv1", "openvino": "openvino_ir"}
_MODEL = "/v2/models/{model}"
_VERSION = "/v2/models/{model}/versions/{version}"


def _serving(request: Request) -> Serving:
    found: Serving = request.app.state.serving
    return found


def _served(request: Request) -> Served:
    return _serving(request).model(request.path_params["model"], request.path_params.get("version", ""))


async def live(request: Request) -> Response:
    """The server runs."""
    return answer.json({"live": True})


async def ready(request: Request) -> Response:
    """The server can answer."""
    return answer.json({"ready": True})


async def server(request: Request) -> Response:
    """What this server is."""
    return answer.json({"name": "loopworks", "version": __version__, "extensions": EXTENSIONS})


async def model(request: Request) -> Response:
    """What a model takes and gives."""
    served = _served(request)
    bundle = served.bundle
    return answer.json({
        "name": served.name,
        "versions": _serving(request).engine.versions(served.name),
        "platform": PLATFORMS.get(served.variant.runtime, served.variant.runtime),
        "inputs": [spec.to_json() for spec in bundle.inputs],
        "outputs": [spec.to_json() for spec in bundle.outputs],
        "parameters": {
            "task": bundle.task,
            "classes": list(bundle.schema.classes),
            "preprocessing": bundle.rule.to_json(),
            "variant": served.variant.name,
            "device": served.device,
            "limits": served.limits.model_dump(exclude={"memory_mb"}),
        },
    })


async def model_ready(request: Request) -> Response:
    """A model can answer."""
    return answer.json({"name": _served(request).name, "ready": True})


async def infer(request: Request) -> Response:
    """Answer tensors with tensors; over a socket, ``server.connection`` does it before a request gets here."""
    inferring: Inferring = request.app.state.inferring
    found: asyncio.Future[answer.Reply] = asyncio.get_running_loop().create_future()
    headers = {name.lower(): value for name, value in request.headers.items()}
    model, version = request.path_params["model"], request.path_params.get("version", "")
    asked = Asked(model, version, request.url.path, headers, await request.body(), found.set_result)
    inferring.ask(asked)
    reply = await unless_gone(request, found)
    note: Note = request.scope[NOTE]
    if asked.served is not None:
        note.model, note.parts_ns = f"{asked.served.name}/{asked.served.version}", asked.parts_ns
    if reply is None:
        inferring.cancel(asked)
        raise Cancelled("the client went away before the answer")
    return Response(reply.body, reply.status, reply.headers, media_type=reply.kind)


async def config(request: Request) -> Response:
    """A model's configuration, as load generators ask for it."""
    served = _served(request)
    return answer.json({
        "name": served.name,
        "platform": PLATFORMS.get(served.variant.runtime, served.variant.runtime),
        "backend": served.variant.runtime,
        "max_batch_size": served.max_batch if served.is_batched else 0,
        "input": [_config(spec, served.is_batched) for spec in served.bundle.inputs],
        "output": [_config(spec, served.is_batched) for spec in served.bundle.outputs],
        "dynamic_batching": {"max_queue_delay_microseconds": 0},
    })


def _config(spec: TensorSpec, is_batched: bool) -> dict[str, Any]:
    name = {"BYTES": "STRING"}.get(spec.datatype, spec.datatype)
    return {"name": spec.name, "data_type": f"TYPE_{name}", "dims": list(spec.shape[1:] if is_batched else spec.shape)}


async def statistics(request: Request) -> Response:
    """What the models did since they were loaded."""
    engine = _serving(request).engine
    served = [_served(request)] if "model" in request.path_params else engine.models()
    return answer.json({"model_stats": [_statistics(one) for one in served]})


def _statistics(served: Served) -> dict[str, Any]:
    found = served.statistics
    return {
        "name": served.name,
        "version": served.version,
        "last_inference": found.last_ms,
        "inference_count": found.inferences,
        "execution_count": found.executions,
        "inference_stats": {
            "success": _duration(found.success, found.success_ns),
            "fail": _duration(found.failure, found.failure_ns),
            "queue": _duration(found.success, found.queue_ns),
            "compute_input": _duration(found.success, found.input_ns),
            "compute_infer": _duration(found.success, found.compute_ns),
            "compute_output": _duration(found.success, found.output_ns),
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "batch_stats": [
            {"batch_size": size, "compute_infer": _duration(count, found.batch_ns[size])}
            for size, count in sorted(dict(found.batches).items())
        ],
    }


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


async def index(request: Request) -> Response:
    """Which models there are, and whether they are loaded."""
    is_ready_only = (await answer.body(request)).get("ready") is True
    serving = _serving(request)
    loaded = {served.name: served for served in serving.engine.models()}
    listed = []
    for deployment in await run_in_threadpool(serving.space.deployments):
        served = loaded.get(deployment.name)
        if served is None and is_ready_only:
            continue
        why = serving.problem(deployment.name)
        listed.append({
            "name": deployment.name,
            "version": served.version if served else str(deployment.revision),
            "state": "READY" if served else "UNAVAILABLE",
            "reason": why or ("" if served else "unloaded"),
        })
    return answer.json(listed)


async def load(request: Request) -> Response:
    """Load a deployment, again if it is loaded."""
    served = await run_in_threadpool(_serving(request).load, request.path_params["model"])
    return answer.json({"name": served.name, "version": served.version})


async def unload(request: Request) -> Response:
    """Take a model out of memory; it stays deployed."""
    name = request.path_params["model"]
    await run_in_threadpool(_serving(request).unload, name)
    return answer.json({"name": name})


_INFER: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "items": {"type": "object", "required": ["name", "datatype", "shape"]}},
        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
    },
}

ROUTES = (
    Api(method="GET", path="/v2/health/live", endpoint=live, summary="The server runs"),
    Api(method="GET", path="/v2/health/ready", endpoint=ready, summary="The server can answer"),
    Api(method="GET", path="/v2", endpoint=server, summary="Server metadata"),
    Api(method="GET", path="/v2/models/stats", endpoint=statistics, summary="Statistics of all models"),
    Api(method="GET", path=_MODEL, endpoint=model, summary="Model metadata"),
    Api(method="GET", path=_VERSION, endpoint=model, summary="Model metadata"),
    Api(method="GET", path=f"{_MODEL}/ready", endpoint=model_ready, summary="A model can answer"),
    Api(method="GET", path=f"{_VERSION}/ready", endpoint=model_ready, summary="A model can answer"),
    Api(method="GET", path=f"{_MODEL}/config", endpoint=config, summary="Model configuration"),
    Api(method="GET", path=f"{_VERSION}/config", endpoint=config, summary="Model configuration"),
    Api(method="GET", path=f"{_MODEL}/stats", endpoint=statistics, summary="Statistics of a model"),
    Api(method="GET", path=f"{_VERSION}/stats", endpoint=statistics, summary="Statistics of a model"),
    Api(method="POST", path=f"{_MODEL}/infer", endpoint=infer, summary="Infer", body=_INFER),
    Api(method="POST", path=f"{_VERSION}/infer", endpoint=infer, summary="Infer", body=_INFER),
    Api(
        method="POST",
        path="/v2/repository/index",
        endpoint=index,
        summary="Models and their state",
        body={"type": "object", "properties": {"ready": {"type": "boolean"}}},
    ),
    Api(method="POST", path="/v2/repository/models/{model}/load", endpoint=load, summary="Load a deployment"),
    Api(method="POST", path="/v2/repository/models/{model}/unload", endpoint=unload, summary="Unload a model"),
)
