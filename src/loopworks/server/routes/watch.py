"""Watched deployments over HTTP: rules, inbox, feedback, truth, drift; the same calls as the Python API."""

from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Invalid
from loopworks.server import answer, fields, guard
from loopworks.server.nearby import nearby
from loopworks.server.route import Api
from loopworks.server.serving import Serving

if TYPE_CHECKING:
    from loopworks.workspace import Workspace

_WATCH = "/api/deployments/{deployment}/watch"
_BODY = {"type": "object", "description": "docs/watch.md lists the fields"}


def _space(request: Request) -> "Workspace":
    serving: Serving = request.app.state.serving
    return serving.space


def _name(request: Request) -> str:
    found: str = request.path_params["deployment"]
    return found


def show(request: Request) -> Response:
    """Counts, inbox, drift and accuracy."""
    serving: Serving = request.app.state.serving
    serving.watch.flush()
    return answer.json(_space(request).watched(_name(request)))


def watches(request: Request) -> Response:
    """Deployments that are watched."""
    space = _space(request)
    found = [{"deployment": name, "rules": space.watch_rules(name).to_json()} for name in space.watches()]
    return answer.json({"watches": found})


async def set_rules(request: Request) -> Response:
    """Watch a deployment by rules."""
    body = await answer.body(request)
    author = fields.text(body, "author", "")
    told = {name: value for name, value in body.items() if name != "author"}
    found = await run_in_threadpool(_space(request).watch, _name(request), told, author=author)
    serving: Serving = request.app.state.serving
    await run_in_threadpool(serving.watch.flush)
    return answer.json({"deployment": _name(request), "rules": found.to_json()})


def stop(request: Request) -> Response:
    """Watch it no more."""
    return answer.json({"deployment": _name(request), "was_watched": _space(request).unwatch(_name(request))})


def events(request: Request) -> Response:
    """What watching found and decided."""
    kinds = [kind for kind in request.query_params.get("kind", "").split(",") if kind]
    found = _space(request).watch_events(_name(request), *kinds, limit=fields.whole(request, "limit", 100, most=1000))
    return answer.json({"deployment": _name(request), "events": [event.to_json() for event in found]})


def inbox(request: Request) -> Response:
    """Captured inputs."""
    state = request.query_params.get("state", "inbox")
    found = _space(request).inbox(_name(request), state=state, limit=fields.whole(request, "limit", 100, most=10_000))
    return answer.json({"deployment": _name(request), "inbox": [one.to_json() for one in found]})


def captured(request: Request) -> Response:
    """One captured input, or what has become of it."""
    path = request.path_params
    return answer.json(_space(request).captured(f"{_name(request)}/{path['revision']}/{path['item']}").to_json())


async def feedback(request: Request) -> Response:
    """A user says whether a prediction was right, or what is true."""
    body = await answer.body(request)
    right = body.get("right")
    if right is not None and not isinstance(right, bool):
        raise Invalid("right", "true or false", right)
    told = fields.text(body, "id"), body.get("label"), fields.text(body, "author", "")
    guard.check_deployment(request, told[0].partition("/")[0])
    serving: Serving = request.app.state.serving

    def keep() -> dict[str, Any]:
        serving.watch.flush()  # the answer may be a moment old
        done = serving.space.feedback(told[0], right=right, label=told[1], author=told[2])
        is_captured = bool(done["is_wrong"]) and serving.watch.feedback(done["deployment"], done["item"])
        return {**done, "is_captured": is_captured}

    return answer.json(await run_in_threadpool(keep))


async def truth(request: Request) -> Response:
    """What was right after all."""
    body = await answer.body(request)
    listed = body.get("truth")
    if not isinstance(listed, list) or not all(
        isinstance(one, dict) and {"id", "label"} <= one.keys() for one in listed
    ):
        raise Invalid("truth", "a list of {'id': ..., 'label': ...}", listed)
    pairs = [(fields.text(one, "id"), one["label"]) for one in listed]
    author = fields.text(body, "author", "truth")
    serving: Serving = request.app.state.serving

    def take() -> dict[str, Any]:
        serving.watch.flush()
        return serving.space.truth(_name(request), pairs, author=author)

    done = await run_in_threadpool(take)
    return answer.json({**done, "problems": [one.to_json() for one in done["problems"]]})


async def drift(request: Request) -> Response:
    """Compare files of this machine with the training data."""
    from pathlib import Path

    body = await answer.body(request)
    paths = [Path(one) for one in fields.names(body, "paths")]
    found = await run_in_threadpool(_space(request).drift, _name(request), paths)
    return answer.json({**found, "problems": [one.to_json() for one in found["problems"]]})


async def purge(request: Request) -> Response:
    """Erase what is older than the rules allow."""
    body = await answer.body(request)
    done = await run_in_threadpool(_space(request).purge, _name(request), dry_run=fields.flag(body, "dry_run"))
    return answer.json({"deployment": _name(request), **done})


async def retrain(request: Request) -> Response:
    """Train again where the rules say so, or judge the training that has ended."""
    body = await answer.body(request)
    how = {name: fields.flag(body, name) for name in ("dry_run", "force")}
    done = await run_in_threadpool(_space(request).retrain, _name(request), **how)
    return answer.json({"deployment": _name(request), **done})


_TRUTH = {
    "type": "object",
    "required": ["truth"],
    "properties": {
        "truth": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "label"],
                "properties": {
                    "id": {"type": "string", "description": "prediction id, item id or key"},
                    "label": {"description": "class, list of classes, or number"},
                },
            },
        },
        "author": {"type": "string"},
    },
}
_FEEDBACK = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "string", "description": "of the prediction, as its answer has it"},
        "right": {"type": "boolean"},
        "label": {"description": "class, list of classes, or number"},
        "author": {"type": "string"},
    },
}
ROUTES = (
    Api(method="GET", path="/api/watches", endpoint=watches, summary="Deployments that are watched"),
    Api(method="GET", path=_WATCH, endpoint=show, summary="What is known of a watched deployment"),
    Api(method="POST", path=_WATCH, endpoint=set_rules, summary="Watch a deployment by rules", body=_BODY),
    Api(method="DELETE", path=_WATCH, endpoint=stop, summary="Watch a deployment no more"),
    Api(
        method="GET",
        path=f"{_WATCH}/events",
        endpoint=events,
        summary="What watching found and decided",
        query={"kind": "alarm, alert, drift, retrain, rules, purge; several with commas", "limit": "at most so many"},
    ),
    Api(
        method="GET",
        path=f"{_WATCH}/inbox",
        endpoint=inbox,
        summary="Captured inputs",
        query={"state": "inbox, returned, or empty for all", "limit": "at most so many"},
    ),
    Api(
        method="GET",
        path=f"{_WATCH}/inbox/{{revision}}/{{item}}",
        endpoint=captured,
        summary="The captured input of a prediction",
    ),
    Api(
        method="POST",
        path="/api/feedback",
        endpoint=feedback,
        summary="Say whether an answer was right",
        body=_FEEDBACK,
    ),
    Api(method="POST", path=f"{_WATCH}/truth", endpoint=truth, summary="Say what was right after all", body=_TRUTH),
    Api(
        method="POST",
        path=f"{_WATCH}/drift",
        endpoint=nearby(drift),
        summary="Compare files with the training data",
        body={"type": "object", "properties": {"paths": {"type": "array", "items": {"type": "string"}}}},
    ),
    Api(
        method="POST",
        path=f"{_WATCH}/purge",
        endpoint=purge,
        summary="Erase what is older than the rules allow",
        body={"type": "object", "properties": {"dry_run": {"type": "boolean"}}},
    ),
    Api(
        method="POST",
        path=f"{_WATCH}/retrain",
        endpoint=retrain,
        summary="Train again where the rules say so",
        body={"type": "object", "properties": {"dry_run": {"type": "boolean"}, "force": {"type": "boolean"}}},
    ),
)
