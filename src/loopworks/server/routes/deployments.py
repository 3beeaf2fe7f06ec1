"""What answers requests, and how that changes: deploy, canary, shadow, promote, rollback, undeploy."""

from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Invalid
from loopworks.server import answer, fields
from loopworks.server.fields import Body
from loopworks.server.guard import author
from loopworks.server.route import Api, text_schema
from loopworks.server.serving import Serving

if TYPE_CHECKING:
    from loopworks.workspace import Deployment

_NAMED = "/api/deployments/{deployment}"


def deployments(request: Request) -> Response:
    """What is live, by name."""
    serving: Serving = request.app.state.serving
    return answer.json({"deployments": [d.to_json() for d in serving.space.deployments()]})


async def deploy(request: Request) -> Response:
    """Put a model to use; it answers when this returns."""
    body = await answer.body(request)
    serving: Serving = request.app.state.serving
    canary = body.get("canary")
    if canary is not None and (isinstance(canary, bool) or not isinstance(canary, int | float)):
        raise Invalid("canary", "a part in percent, above 0 and below 100", canary)

    def work() -> "Deployment":
        done = serving.space.deploy(
            fields.text(body, "model"),
            fields.text(body, "name", ""),
            variant=fields.text(body, "variant", ""),
            canary=canary,
            shadow=fields.flag(body, "shadow"),
            author=author(request, fields.text(body, "author", "")),
        )
        serving.load(done.name)
        return done

    return answer.json({"deployment": (await run_in_threadpool(work)).to_json()}, 201)


def traffic(request: Request) -> Response:
    """Everything of a deployment: what is in use, each change, and how its revisions agree."""
    serving: Serving = request.app.state.serving
    serving.write()
    return answer.json({"traffic": serving.space.traffic(request.path_params["deployment"]).to_json()})


async def promote(request: Request) -> Response:
    """Let the canary, or the revision named, answer all requests."""
    return await _changed(request, "promote")


async def rollback(request: Request) -> Response:
    """Take the canary back, or let an earlier revision be live again."""
    return await _changed(request, "rollback")


async def undeploy(request: Request) -> Response:
    """Take a deployment out of use, or only a canary or shadow of it."""
    return await _changed(request, "undeploy")


async def _changed(request: Request, what: str) -> Response:
    body = await answer.body(request)
    serving: Serving = request.app.state.serving
    name, revision = request.path_params["deployment"], _revision(body)
    change: Any = getattr(serving.space, what)

    def work() -> "Deployment":
        done: Deployment = change(name, revision, author=author(request, fields.text(body, "author", "")))
        if what == "undeploy" and revision is None:
            serving.sync()
        else:
            serving.load(name)
        return done

    return answer.json({"deployment": (await run_in_threadpool(work)).to_json()})


def _revision(body: Body) -> int | None:
    found = body.get("revision")
    if found is not None and (isinstance(found, bool) or not isinstance(found, int) or found < 1):
        raise Invalid("revision", "a whole number from 1", found)
    return found


_CHANGE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "revision": {"type": "integer", "description": "default: the canary, or the revision before"},
        "author": {"type": "string", "description": "who does it"},
    },
}
_DEPLOY = text_schema(
    model="NAME:NUMBER, or NAME@ALIAS to follow the alias",
    name_="default the model's",
    variant_="default the chosen one",
    author_="who does it",
)
_DEPLOY["properties"] |= {
    "canary": {"type": "number", "description": "percent of the requests; leave out to answer all"},
    "shadow": {"type": "boolean", "description": "true: only compare with what is live"},
}

ROUTES = (
    Api(method="GET", path="/api/deployments", endpoint=deployments, summary="What answers requests"),
    Api(
        method="POST",
        path="/api/deployments",
        endpoint=deploy,
        summary="Put a model to use",
        body=_DEPLOY,
        status=201,
    ),
    Api(method="GET", path=_NAMED, endpoint=traffic, summary="What is in use, each change, and agreement"),
    Api(method="POST", path=f"{_NAMED}/promote", endpoint=promote, summary="Let the canary be live", body=_CHANGE),
    Api(method="POST", path=f"{_NAMED}/rollback", endpoint=rollback, summary="Go back a revision", body=_CHANGE),
    Api(method="POST", path=f"{_NAMED}/undeploy", endpoint=undeploy, summary="Take out of use", body=_CHANGE),
)
