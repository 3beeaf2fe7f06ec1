"""Chains: list, show, add, roll back, remove. They answer at ``/predict/NAME``."""

from typing import cast

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Invalid
from loopworks.server import answer, fields
from loopworks.server.guard import author
from loopworks.server.route import Api, text_schema
from loopworks.server.serving import Serving


def _serving(request: Request) -> Serving:
    return cast(Serving, request.app.state.serving)


def chains(request: Request) -> Response:
    """All chains."""
    return answer.json({"chains": [chain.to_json() for chain in _serving(request).space.chains()]})


def chain(request: Request) -> Response:
    """One chain with its revisions, and drawn as text."""
    space, name = _serving(request).space, request.path_params["chain"]
    found = space.chain(name)
    history = [one.to_json() for one in space.chain_history(name)]
    return answer.json({"chain": found.to_json(), "history": history, "drawn": space.draw_chain(found)})


async def add(request: Request) -> Response:
    """Add a chain, or change it."""
    body = await answer.body(request)
    for key in ("name", "graph"):
        if not isinstance(body.get(key), str):
            raise Invalid(key, "text", body.get(key, "nothing"))
    space, who = _serving(request).space, author(request, fields.text(body, "author", ""))
    done = await run_in_threadpool(space.add_chain, body["name"], body["graph"], author=who)
    return answer.json({"chain": done.to_json()})


async def rollback(request: Request) -> Response:
    """Let the graph before, or that of a revision, be the chain's again."""
    body = await answer.body(request)
    revision = body.get("revision")
    if revision is not None and (isinstance(revision, bool) or not isinstance(revision, int) or revision < 1):
        raise Invalid("revision", "a whole number from 1", revision)
    space, who = _serving(request).space, author(request, fields.text(body, "author", ""))
    done = await run_in_threadpool(space.rollback_chain, request.path_params["chain"], revision, author=who)
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
    Api(
        method="POST",
        path="/api/chains/{chain}/rollback",
        endpoint=rollback,
        summary="Bring a chain's earlier graph back",
        body={"type": "object", "properties": {"revision": {"type": "integer"}, "author": {"type": "string"}}},
    ),
    Api(method="POST", path="/api/chains/{chain}/remove", endpoint=remove, summary="Remove a chain"),
)
