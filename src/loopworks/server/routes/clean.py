"""Checks, findings and fixes over HTTP; similar items and the map: the rows of the command line's ``--json``."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Invalid
from loopworks.server import answer
from loopworks.server.route import Api, text_schema
from loopworks.server.serving import Serving

if TYPE_CHECKING:
    from loopworks.data.stage import Dataset

_DATASET = "/api/datasets/{dataset}"


def _dataset(request: Request) -> "Dataset":
    serving: Serving = request.app.state.serving
    return serving.space.dataset(request.path_params["dataset"])


async def check(request: Request) -> Response:
    """Run checks: ``{"checks": [NAME, ...], "params": {NAME: {...}}, "seed": 0}``, each of which may be left out."""
    body = await answer.body(request)
    names, params, seed = body.get("checks", []), body.get("params", {}), body.get("seed", 0)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise Invalid("checks", "a list of names", names)
    if not isinstance(params, dict) or not all(isinstance(value, dict) for value in params.values()):
        raise Invalid("params", "an object of check to its parameters", params)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise Invalid("seed", "a whole number, 0 or more", seed)
    target = await run_in_threadpool(_dataset, request)
    found = await run_in_threadpool(partial(target.clean.check, *names, params=params, seed=seed))
    return answer.json(found.to_json())


def findings(request: Request) -> Response:
    """What checks found, by kind, the worst first."""
    asked = request.query_params
    found = _dataset(request).clean.findings(state=asked.get("state", "open"), kind=asked.get("kind", ""))
    limit = _whole(request, "limit", 100)
    rows = [one.to_json() for one in found[:limit]]
    return answer.json({"dataset": request.path_params["dataset"], "findings": rows, "count": len(found)})


async def fix(request: Request) -> Response:
    """Put right what a finding says; undo takes the operation ``op`` back."""
    body = await answer.body(request)
    author = body.get("author", "")
    if not isinstance(author, str):
        raise Invalid("author", "text", author)
    return await _done(request, lambda target, one: target.clean.fix(one, author=author))


async def ignore(request: Request) -> Response:
    """Wave a finding through, or with ``{"reopen": true}`` open it again."""
    body = await answer.body(request)
    is_ignored = body.get("reopen") is not True
    return await _done(request, lambda target, one: target.clean.ignore(one, is_ignored=is_ignored))


async def _done(request: Request, change: "Callable[[Dataset, str], Any]") -> Response:
    target = await run_in_threadpool(_dataset, request)
    found = await run_in_threadpool(change, target, request.path_params["finding"])
    return answer.json({"dataset": target.name, "findings": [found.to_json()]})


def similar(request: Request) -> Response:
    """The items most like an item or a text."""
    asked = request.query_params
    target = _dataset(request)
    found = target.similar(
        asked.get("item", ""),
        text=asked.get("text", ""),
        k=_whole(request, "k", 10),
        descriptor=asked.get("descriptor", "auto"),
    )
    return answer.json({"dataset": target.name, **found.to_json()})


async def similar_image(request: Request) -> Response:
    """The items most like the image in the body."""
    content = await request.body()
    asked = request.query_params
    target = await run_in_threadpool(_dataset, request)
    count, descriptor = _whole(request, "k", 10), asked.get("descriptor", "auto")
    found = await run_in_threadpool(partial(target.similar, image=content, k=count, descriptor=descriptor))
    return answer.json({"dataset": target.name, **found.to_json()})


def show_map(request: Request) -> Response:
    """Places of the items on a plane."""
    target = _dataset(request)
    found = target.map(
        descriptor=request.query_params.get("descriptor", "auto"),
        limit=_whole(request, "limit", 20_000),
        seed=_whole(request, "seed", 0, least=0),
    )
    return answer.json({"dataset": target.name, **found.to_json()})


def _whole(request: Request, name: str, default: int, least: int = 1) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isdecimal() or int(text) < least:
        raise Invalid(name, f"a whole number, {least} or more", text)
    return int(text)


_DESCRIPTOR = {"descriptor": "auto, model, look, near, words or timm:NAME"}
ROUTES: tuple[Api, ...] = (
    Api(
        method="POST",
        path=f"{_DATASET}/check",
        endpoint=check,
        summary="Look for faults of the data",
        body={
            "type": "object",
            "properties": {
                "checks": {"type": "array", "items": {"type": "string"}, "description": "default all that fit"},
                "params": {"type": "object", "description": "check -> parameter -> value"},
                "seed": {"type": "integer", "minimum": 0},
            },
        },
    ),
    Api(
        method="GET",
        path=f"{_DATASET}/findings",
        endpoint=findings,
        summary="What checks found",
        query={"state": "open, fixed, ignored or all", "kind": "only those of one check", "limit": "default 100"},
    ),
    Api(
        method="POST",
        path=f"{_DATASET}/findings/{{finding}}/fix",
        endpoint=fix,
        summary="Put right what a finding says",
        body=text_schema(author_="who fixes it"),
    ),
    Api(
        method="POST",
        path=f"{_DATASET}/findings/{{finding}}/ignore",
        endpoint=ignore,
        summary="Wave a finding through",
        body={"type": "object", "properties": {"reopen": {"type": "boolean", "description": "open it again"}}},
    ),
    Api(
        method="GET",
        path=f"{_DATASET}/similar",
        endpoint=similar,
        summary="Items like an item or a text",
        query={"item": "id, its beginning, or name", "text": "in a dataset of texts", "k": "default 10", **_DESCRIPTOR},
    ),
    Api(
        method="POST",
        path=f"{_DATASET}/similar",
        endpoint=similar_image,
        summary="Items like an image",
        query={"k": "default 10", **_DESCRIPTOR},
        body={"type": "string", "format": "binary"},
        media="application/octet-stream",
    ),
    Api(
        method="GET",
        path=f"{_DATASET}/map",
        endpoint=show_map,
        summary="Items on a plane, alike ones together",
        query={"limit": "default 20000", "seed": "default 0", **_DESCRIPTOR},
    ),
)
