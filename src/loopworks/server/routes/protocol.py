"""The Open Inference Protocol v2 over REST, with the binary tensor, model repository and statistics extensions.

A deployment is a model here, its revision the model's version.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Cancelled, NotFound
from loopworks.infer.engine import Served
from loopworks.server import answer, described, extensions, fields
from loopworks.server.asking import Asked
from loopworks.server.heads import Head
from loopworks.server.inferring import Inferring
from loopworks.server.route import Api, Endpoint
from loopworks.server.routes import protocol_schema as schema
from loopworks.server.serving import Serving
from loopworks.server.telling import NOTE, Note
from loopworks.server.triton import Counted
from loopworks.server.waiting import unless_gone
from loopworks.store.chains import Chain

_MODEL = "/v2/models/{model}"
_VERSION = "/v2/models/{model}/versions/{version}"


def _serving(request: Request) -> Serving:
    found: Serving = request.app.state.serving
    return found


async def _served(request: Request) -> Served:
    serving, name = _serving(request), request.path_params["model"]
    version = request.path_params.get("version", "")
    if serving.engine.is_parked(name):
        return await run_in_threadpool(serving.model, name, version)  # which loads it
    return serving.model(name, version)


async def _found(request: Request) -> Served | Chain:
    """The deployment, or the chain, that a request names."""
    try:
        return await _served(request)
    except NotFound:
        if (chain := await _chain(request)) is None:
            raise
        return chain


async def _chain(request: Request) -> Chain | None:
    model, version = request.path_params["model"], request.path_params.get("version", "")
    return await run_in_threadpool(_serving(request).chains.chain, model, version)


async def _check(request: Request) -> None:
    """``NotFound``, or what is wrong with a chain, unless the model can be asked."""
    try:
        _serving(request).check_ready(request.path_params["model"], request.path_params.get("version", ""))
    except NotFound:
        if (chain := await _chain(request)) is None:
            raise
        await run_in_threadpool(_serving(request).chains.link, chain)


async def live(request: Request) -> Response:
    """The server runs."""
    return answer.json({"live": True})


async def ready(request: Request) -> Response:
    """All models can answer."""
    is_ready = _serving(request).is_ready
    return answer.json({"ready": is_ready}, 200 if is_ready else 503)


async def server(request: Request) -> Response:
    """What this server is."""
    return answer.json(described.server())


async def model(request: Request) -> Response:
    """What a model takes and gives."""
    found = await _found(request)
    if isinstance(found, Chain):
        return answer.json(described.chain(found))
    return answer.json(described.model(found, _serving(request).engine.versions(found.name)))


async def model_ready(request: Request) -> Response:
    """A model can answer."""
    await _check(request)
    return answer.json({"name": request.path_params["model"], "ready": True})


async def infer(request: Request) -> Response:
    """Answer tensors with tensors; over a socket, ``server.connection`` does it before a request gets here."""
    inferring: Inferring = request.app.state.inferring
    found: asyncio.Future[answer.Reply] = asyncio.get_running_loop().create_future()
    headers = {name.lower(): value for name, value in request.headers.items()}
    model, version = request.path_params["model"], request.path_params.get("version", "")
    head = Head(request.url.path, model, version, headers)
    asked = Asked(head, await request.body(), found.set_result)
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
    found = await _found(request)
    return answer.json(described.chain_config(found) if isinstance(found, Chain) else described.config(found))


async def statistics(request: Request) -> Response:
    """What the models did since they were loaded."""
    serving = _serving(request)
    counted: list[Counted] = [*serving.engine.models(), *serving.chains.ensembles()]
    if "model" in request.path_params:
        found = await _found(request)
        counted = [serving.chains.ensemble(found) if isinstance(found, Chain) else found]
    return answer.json({"model_stats": [described.statistics(one) for one in counted]})


async def index(request: Request) -> Response:
    """Which models there are, and whether they are loaded."""
    is_ready_only = fields.flag(await answer.body(request), "ready")
    return answer.json(await run_in_threadpool(described.index, _serving(request), is_ready_only))


async def load(request: Request) -> Response:
    """Load a deployment, again if it is loaded."""
    extensions.check_load(fields.mapping(await answer.body(request), "parameters"))
    name = request.path_params["model"]
    if (chain := await run_in_threadpool(_serving(request).chains.chain, name)) is not None:
        await run_in_threadpool(_serving(request).chains.link, chain)
        return answer.json({"name": name, "version": str(chain.revision)})
    served = await run_in_threadpool(_serving(request).load, name)
    return answer.json({"name": served.name, "version": served.version})


async def unload(request: Request) -> Response:
    """Take a model out of memory; it stays deployed, and no other model depends on it."""
    extensions.check_unload(fields.mapping(await answer.body(request), "parameters"))
    name = request.path_params["model"]
    if await run_in_threadpool(_serving(request).chains.chain, name) is not None:
        extensions.refuse_chain(name)
    await run_in_threadpool(_serving(request).unload, name)
    return answer.json({"name": name})


async def trace(request: Request) -> Response:
    """The trace settings; none can be changed."""
    if "model" in request.path_params:
        await _check(request)
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


def _api(method: str, path: str, endpoint: Endpoint, summary: str, returns: schema.Schema, **more: Any) -> Api:
    return Api(method=method, path=path, endpoint=endpoint, summary=summary, returns=returns, **more)


def _both(
    method: str, path: str, endpoint: Endpoint, summary: str, returns: schema.Schema, **more: Any
) -> Iterator[Api]:
    """The route of a model, and of one of its versions."""
    for model in (_MODEL, _VERSION):
        yield _api(method, f"{model}{path}", endpoint, summary, returns, **more)


def _settings(path: str, endpoint: Endpoint, summary: str, returns: schema.Schema) -> Iterator[Api]:
    yield _api("GET", path, endpoint, summary, returns)
    yield _api("POST", path, endpoint, summary, returns, body={"type": "object"})


def _memory(path: str) -> Iterator[Api]:
    region = f"{path}/region/{{region}}"
    for at in (path, region):
        yield _api("GET", f"{at}/status", memory, "Shared memory: none", schema.REGIONS)
        yield _api("POST", f"{at}/unregister", unregister, "Forget shared memory", schema.NOTHING)
    summary = "Refused: shared memory is not offered"
    yield _api("POST", f"{region}/register", register, summary, schema.NOTHING, body={"type": "object"})


_REPOSITORY = "/v2/repository/models/{model}"
ROUTES = (
    _api("GET", "/v2/health/live", live, "The server runs", schema.LIVE),
    _api("GET", "/v2/health/ready", ready, "All models can answer", schema.READY),
    _api("GET", "/v2", server, "Server metadata", schema.SERVER),
    _api("GET", "/v2/models/stats", statistics, "Statistics of all models", schema.STATISTICS),
    *_both("GET", "", model, "Model metadata", schema.MODEL),
    *_both("GET", "/ready", model_ready, "A model can answer", schema.MODEL_READY),
    *_both("GET", "/config", config, "Model configuration", schema.CONFIG),
    *_both("GET", "/stats", statistics, "Statistics of a model", schema.STATISTICS),
    *_both("POST", "/infer", infer, "Infer", schema.ANSWER, body=schema.ASK),
    _api("POST", "/v2/repository/index", index, "Models and their state", schema.INDEX, body=schema.READY_ONLY),
    _api("POST", f"{_REPOSITORY}/load", load, "Load a deployment", schema.LOADED, body=schema.LOAD),
    _api("POST", f"{_REPOSITORY}/unload", unload, "Unload a model", schema.LOADED, body=schema.LOAD),
    *_settings("/v2/logging", logs, "Log settings", schema.LOGS),
    *_settings("/v2/trace/setting", trace, "Trace settings", schema.TRACE),
    *_settings(f"{_MODEL}/trace/setting", trace, "Trace settings of a model", schema.TRACE),
    *_memory("/v2/systemsharedmemory"),
    *_memory("/v2/cudasharedmemory"),
)
