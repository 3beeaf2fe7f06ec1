"""The Open Inference Protocol v2 over REST, with the binary tensor, model repository and statistics extensions.

A deployment is a model here, its revision the model's version.
"""

import asyncio
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Cancelled
from loopworks.infer.engine import Served
from loopworks.server import answer, described, extensions, fields
from loopworks.server.inferring import Asked, Inferring
from loopworks.server.route import Api, Endpoint
from loopworks.server.serving import Serving
from loopworks.server.telling import NOTE, Note
from loopworks.server.waiting import unless_gone

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
    return answer.json(described.server())


async def model(request: Request) -> Response:
    """What a model takes and gives."""
    return answer.json(described.model(_served(request), _serving(request).engine.versions(_served(request).name)))


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
    return answer.json(described.config(_served(request)))


async def statistics(request: Request) -> Response:
    """What the models did since they were loaded."""
    engine = _serving(request).engine
    served = [_served(request)] if "model" in request.path_params else engine.models()
    return answer.json({"model_stats": [described.statistics(one) for one in served]})


async def index(request: Request) -> Response:
    """Which models there are, and whether they are loaded."""
    is_ready_only = fields.flag(await answer.body(request), "ready")
    return answer.json(await run_in_threadpool(described.index, _serving(request), is_ready_only))


async def load(request: Request) -> Response:
    """Load a deployment, again if it is loaded."""
    extensions.check_load(fields.mapping(await answer.body(request), "parameters"))
    served = await run_in_threadpool(_serving(request).load, request.path_params["model"])
    return answer.json({"name": served.name, "version": served.version})


async def unload(request: Request) -> Response:
    """Take a model out of memory; it stays deployed, and no other model depends on it."""
    extensions.check_unload(fields.mapping(await answer.body(request), "parameters"))
    name = request.path_params["model"]
    await run_in_threadpool(_serving(request).unload, name)
    return answer.json({"name": name})


async def trace(request: Request) -> Response:
    """The trace settings; none can be changed."""
    if "model" in request.path_params:
        _served(request)
    return answer.json(extensions.trace(await answer.body(request)))


async def logs(request: Request) -> Response:
    """The log settings; none can be changed."""
    return answer.json(extensions.logs(await answer.body(request)))


async def memory(request: Request) -> Response:
    """The regions of shared memory: there is none."""
    return answer.json([])


async def register(request: Request) -> Response:
    """Refuse a region of shared memory."""
    extensions.refuse_memory("CUDA" if "/cuda" in request.scope["path"] else "system")
    return answer.json({})


async def unregister(request: Request) -> Response:
    """Forget regions of shared memory: there is none."""
    return answer.json({})


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

_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {"parameters": {"type": "object"}}}


def _settings(path: str, endpoint: Endpoint, summary: str) -> tuple[Api, ...]:
    change = Api(method="POST", path=path, endpoint=endpoint, summary=summary, body={"type": "object"})
    return Api(method="GET", path=path, endpoint=endpoint, summary=summary), change


def _memory(path: str) -> tuple[Api, ...]:
    region = f"{path}/region/{{region}}"
    return (
        *(
            Api(method="GET", path=f"{at}/status", endpoint=memory, summary="Shared memory: none")
            for at in (path, region)
        ),
        *(
            Api(method="POST", path=f"{at}/unregister", endpoint=unregister, summary="Forget shared memory")
            for at in (path, region)
        ),
        Api(
            method="POST",
            path=f"{region}/register",
            endpoint=register,
            summary="Refused: shared memory is not offered",
            body={"type": "object"},
        ),
    )


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
    Api(
        method="POST",
        path="/v2/repository/models/{model}/load",
        endpoint=load,
        summary="Load a deployment",
        body=_PARAMETERS,
    ),
    Api(
        method="POST",
        path="/v2/repository/models/{model}/unload",
        endpoint=unload,
        summary="Unload a model",
        body=_PARAMETERS,
    ),
    *_settings("/v2/logging", logs, "Log settings"),
    *_settings("/v2/trace/setting", trace, "Trace settings"),
    *_settings(f"{_MODEL}/trace/setting", trace, "Trace settings of a model"),
    *_memory("/v2/systemsharedmemory"),
    *_memory("/v2/cudasharedmemory"),
)
