"""Chains over HTTP."""

from typing import TYPE_CHECKING, Any

import anyio.to_thread
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Invalid
from loopworks.server import answer
from loopworks.server.fields import flag, mapping
from loopworks.server.route import Api

if TYPE_CHECKING:
    from loopworks.infer.chains.stage import Chains
    from loopworks.server.serving import Serving


def _chains(request: Request) -> "Chains":
    serving: Serving = request.app.state.serving
    return serving.space.chains


def ls(request: Request) -> Response:
    """All chains."""
    return answer.json({"chains": [chain.to_json() for chain in _chains(request).list()]})


async def add(request: Request) -> Response:
    """Keep a chain: ``{"definition": {...}, "replace": false}``."""
    body = await answer.body(request)
    definition = mapping(body, "definition")
    made = await run_in_threadpool(lambda: _chains(request).add(definition, replace=flag(body, "replace")))
    return answer.json({"chain": made.to_json()}, 201)


def get(request: Request) -> Response:
    """One chain."""
    return answer.json({"chain": _chains(request).get(request.path_params["name"]).to_json()})


def remove(request: Request) -> Response:
    """Forget a chain."""
    name = request.path_params["name"]
    _chains(request).remove(name)
    return answer.json({"removed": name})


async def predict(request: Request) -> Response:
    """What a chain says of the image in the body."""
    serving: Serving = request.app.state.serving
    body = await request.body()
    if not body:
        raise Invalid("request body", "an image file", "nothing")

    def asked() -> dict[str, Any]:
        return _chains(request).ask(request.path_params["name"], body, pick=serving.model)

    return answer.json(await anyio.to_thread.run_sync(asked))


_NAME = "/api/chains/{name}"
ROUTES = (
    Api(method="GET", path="/api/chains", endpoint=ls, summary="All chains"),
    Api(
        method="POST",
        path="/api/chains",
        endpoint=add,
        summary="Keep a chain",
        body={
            "type": "object",
            "properties": {
                "definition": {"type": "object", "description": "see docs/live.md"},
                "replace": {"type": "boolean", "description": "take the place of one with the same name"},
            },
            "required": ["definition"],
        },
        status=201,
    ),
    Api(method="GET", path=_NAME, endpoint=get, summary="One chain"),
    Api(method="DELETE", path=_NAME, endpoint=remove, summary="Forget a chain"),
    Api(
        method="POST",
        path=f"{_NAME}/predict",
        endpoint=predict,
        summary="Ask a chain about an image",
        body={"type": "string", "format": "binary"},
        media="image/*",
    ),
)
