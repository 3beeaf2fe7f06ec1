"""Chains: list, show, add, remove. They answer at ``/predict/NAME``."""

from typing import cast

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Invalid
from loopworks.server import answer
from loopworks.server.route import Api, text_schema
from loopworks.server.serving import Serving


def _serving(request: Request) -> Serving:
    return cast(Serving, request.app.state.serving)


def chains(request: Request) -> Response:
    """All chains."""
    return answer.json({"chains": [chain.to_json() for chain in _serving(request).space.chains()]})


def chain(request: Request) -> Response:
    """One chain."""
    return answer.json({"chain": _serving(request).space.chain(request.path_params["chain"]).to_json()})


async def add(request: Request) -> Response:
    """Add a chain, or change it."""
    body = await answer.body(request)
    for key in ("name", "graph"):
        if not isinstance(body.get(key), str):
            raise Invalid(key, "text", body.get(key, "nothing"))
    done = await anyio.to_thread.run_sync(_serving(request).space.add_chain, body["name"], body["graph"])
    return answer.json({"chain": done.to_json()})


def remove(request: Request) -> Response:
    """Take a chain away."""
    return answer.json({"chain": _serving(request).space.remove_chain(request.path_params["chain"]).to_json()})


ROUTES = (
    Api(method="GET", path="/api/chains", endpoint=chains, summary="Chains"),
    Api(
        method="POST",
        path="/api/chains",
        endpoint=add,
        summary="Add or change a chain",
        body=text_schema(name="of the chain", graph="nodes and edges, as YAML"),
    ),
    Api(method="GET", path="/api/chains/{chain}", endpoint=chain, summary="A chain"),
    Api(method="POST", path="/api/chains/{chain}/remove", endpoint=remove, summary="Remove a chain"),
)
