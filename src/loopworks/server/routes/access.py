"""API tokens over HTTP, for admins."""

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Invalid
from loopworks.server import answer, fields
from loopworks.server.guard import author
from loopworks.server.route import Api
from loopworks.server.serving import Serving
from loopworks.store.tokens import SCOPES, Token


def tokens(request: Request) -> Response:
    """All tokens, without themselves."""
    serving: Serving = request.app.state.serving
    serving.tokens.write()
    is_all = request.query_params.get("revoked") == "true"
    return answer.json({"tokens": [token.to_json() for token in serving.space.tokens(revoked=is_all)]})


async def add(request: Request) -> Response:
    """Make a token; the answer is the only place that ever shows it."""
    body = await answer.body(request)
    serving: Serving = request.app.state.serving
    for name in ("scopes", "deployments"):
        given = body.get(name, [])
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            raise Invalid(name, "a list of text", given)
    expires = body.get("expires")
    if expires is not None and (isinstance(expires, bool) or not isinstance(expires, str | int | float)):
        raise Invalid("expires", "a duration such as 90d", expires)

    def work() -> Token:
        done = serving.space.add_token(
            fields.text(body, "name"),
            body.get("scopes", ["predict"]),
            deployments=body.get("deployments", []),
            expires=expires,
            author=author(request, fields.text(body, "author", "")),
        )
        serving.tokens.refresh()
        return done

    return answer.json({"token": (await run_in_threadpool(work)).to_json()}, 201, {"Cache-Control": "no-store"})


async def revoke(request: Request) -> Response:
    """End a token; from now on it is refused."""
    serving: Serving = request.app.state.serving

    def work() -> Token:
        done = serving.space.revoke_token(request.path_params["token"])
        serving.tokens.refresh()
        return done

    return answer.json({"token": (await run_in_threadpool(work)).to_json()})


_MANY: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
_TOKEN: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "description": "whose it is"},
        "scopes": {"type": "array", "items": {"type": "string", "enum": list(SCOPES)}},
        "deployments": {**_MANY, "description": "with the scope predict alone: the only ones that it may ask"},
        "expires": {"type": ["string", "number"], "description": "after how long, e.g. 90d"},
        "author": {"type": "string", "description": "who makes it"},
    },
}
ROUTES = (
    Api(
        method="GET",
        path="/api/tokens",
        endpoint=tokens,
        summary="API tokens",
        query={"revoked": "true: those that were revoked, too"},
    ),
    Api(method="POST", path="/api/tokens", endpoint=add, summary="Make an API token", body=_TOKEN, status=201),
    Api(method="POST", path="/api/tokens/{token}/revoke", endpoint=revoke, summary="End an API token"),
)
