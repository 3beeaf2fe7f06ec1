"""The Open Inference Protocol v2 over REST, with the binary tensor, model repository and statistics extensions.

A deployment is a model here, its revision the model's version.
"""

import time
import zlib
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Invalid, LoopworksError
from loopworks.infer import protocol
from loopworks.infer.engine import TIMEOUT_S, Served
from loopworks.server import answer, described
from loopworks.server.route import Api
from loopworks.server.serving import Serving
from loopworks.server.waiting import wait

LONG_BYTES = 1 << 18
"""JSON above this takes milliseconds to read."""
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
    return answer.json(described.model(_served(request)))


async def model_ready(request: Request) -> Response:
    """A model can answer."""
    return answer.json({"name": _served(request).name, "ready": True})


async def infer(request: Request) -> Response:
    """Answer tensors with tensors."""
    serving = _serving(request)
    served = _served(request)
    began = time.perf_counter()
    outcome = "internal"
    try:
        asked = await _read(request, served)
        if (unknown := [one.name for one in asked.outputs if one.name not in _names(served)]) != []:
            raise Invalid("outputs", f"among {', '.join(_names(served))}", ", ".join(unknown))
        limit_s = min(asked.timeout_s or TIMEOUT_S, TIMEOUT_S)
        version = request.path_params.get("version", "")
        future = serving.engine.submit(served.name, asked.inputs, version=version, timeout_s=limit_s)
        found = await wait(request, future, limit_s)
        bundle = found.served.bundle
        body, length = protocol.write(
            found.outputs,
            asked,
            bundle.outputs,
            model=served.name,
            version=found.served.version,
            classes=bundle.schema.classes,
        )
        outcome = "done"
    except LoopworksError as error:
        outcome = error.code
        raise
    finally:
        serving.metrics.count(served.name, outcome, time.perf_counter() - began)
    headers = {} if length is None else {protocol.HEADER_LENGTH: str(length)}
    kind = "application/json" if length is None else "application/octet-stream"
    body = _packed(body, request.headers.get("accept-encoding", "").strip().lower(), headers)
    return Response(body, headers=headers, media_type=kind)


async def _read(request: Request, served: Served) -> protocol.Request:
    """The request; a long JSON part is read in a thread, so that short requests do not wait for it."""
    body, length = await request.body(), _header_length(request)
    if (len(body) if length is None else length) > LONG_BYTES:
        return await run_in_threadpool(protocol.read, body, length, served.bundle.inputs)
    return protocol.read(body, length, served.bundle.inputs)


def _names(served: Served) -> list[str]:
    return [spec.name for spec in served.bundle.outputs]


def _packed(body: bytes, accepted: str, headers: dict[str, str]) -> bytes:
    """Compress for a client that asks for just this; a list of what a library could unpack is no wish to wait."""
    if accepted not in ("gzip", "deflate"):
        return body
    headers["Content-Encoding"] = accepted
    pack = zlib.compressobj(1, zlib.DEFLATED, 31 if accepted == "gzip" else 15)
    return pack.compress(body) + pack.flush()


def _header_length(request: Request) -> int | None:
    text = request.headers.get(protocol.HEADER_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise Invalid(protocol.HEADER_LENGTH, "a whole number from 0", text)
    return int(text)


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
    is_ready_only = (await answer.body(request)).get("ready") is True
    return answer.json(await run_in_threadpool(described.index, _serving(request), is_ready_only))


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
