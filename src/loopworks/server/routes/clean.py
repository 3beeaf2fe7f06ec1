"""Checks, findings and fixes over HTTP; similar items and the map: the rows of the command line's ``--json``."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Invalid
from loopworks.server import answer, fields
from loopworks.server.fields import whole
from loopworks.server.route import Api, text_schema
from loopworks.server.serving import Serving
from loopworks.server.starting import started

if TYPE_CHECKING:
    from loopworks.data.stage import Dataset
    from loopworks.workspace import Workspace

_DATASET = "/api/datasets/{dataset}"


def _space(request: Request) -> "Workspace":
    serving: Serving = request.app.state.serving
    return serving.space


def _dataset(request: Request) -> "Dataset":
    return _space(request).dataset(request.path_params["dataset"])


async def check(request: Request) -> Response:
    """Start checks: ``{"checks": [NAME, ...], "params": {NAME: {...}}, "seed": 0}``, each of which may be left out."""
    body = await answer.body(request)
    names, params, seed = fields.names(body, "checks"), fields.mapping(body, "params"), fields.seed(body)
    if not all(isinstance(value, dict) for value in params.values()):
        raise Invalid("params", "an object of check to its parameters", params)
    space, dataset = _space(request), request.path_params["dataset"]
    return await started(lambda: space.check_job(dataset, *names, params=params, seed=seed))


async def embed(request: Request) -> Response:
    """Start the computation of the rows by which items are compared; the answer is its job."""
    descriptor = fields.text(await answer.body(request), "descriptor", "auto")
    space, dataset = _space(request), request.path_params["dataset"]
    return await started(lambda: space.embed_job(dataset, descriptor))


def findings(request: Request) -> Response:
    """What checks found, by kind, the worst first; with ``report=true`` a page with pictures."""
    asked = request.query_params
    state, kind, limit = asked.get("state", "open"), asked.get("kind", ""), whole(request, "limit", 100)
    if asked.get("report") == "true":
        return answer.page(_dataset(request).clean.page(state=state, kind=kind, limit=limit))
    found = _dataset(request).clean.findings(state=state, kind=kind)
    rows = [one.to_json() for one in found[:limit]]
    return answer.json({"dataset": request.path_params["dataset"], "findings": rows, "count": len(found)})


def finding(request: Request) -> Response:
    """One finding."""
    target = _dataset(request)
    found = target.clean.finding(request.path_params["finding"])
    return answer.json({"dataset": target.name, "findings": [found.to_json()]})


async def fix(request: Request) -> Response:
    """Put right what a finding says; undo takes the operation ``op`` back."""
    body = await answer.body(request)
    author = fields.text(body, "author", "")
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
        k=whole(request, "k", 10),
        descriptor=asked.get("descriptor", "auto"),
    )
    return answer.json({"dataset": target.name, **found.to_json()})


async def similar_image(request: Request) -> Response:
    """The items most like the image in the body."""
    content = await request.body()
    asked = request.query_params
    target = await run_in_threadpool(_dataset, request)
    count, descriptor = whole(request, "k", 10), asked.get("descriptor", "auto")
    found = await run_in_threadpool(partial(target.similar, image=content, k=count, descriptor=descriptor))
    return answer.json({"dataset": target.name, **found.to_json()})


def show_map(request: Request) -> Response:
    """Places of the items on a plane."""
    target = _dataset(request)
    found = target.map(
        descriptor=request.query_params.get("descriptor", "auto"),
        limit=whole(request, "limit", 20_000),
        seed=whole(request, "seed", 0, least=0),
    )
    return answer.json({"dataset": target.name, **found.to_json()})


_DESCRIPTOR = {"descriptor": "auto, model, look, near, words, timm:NAME or transformers:NAME"}
ROUTES: tuple[Api, ...] = (
    Api(
        method="POST",
        path=f"{_DATASET}/check",
        endpoint=check,
        summary="Start looking for faults of the data",
        body={
            "type": "object",
            "properties": {
                "checks": {"type": "array", "items": {"type": "string"}, "description": "default all that fit"},
                "params": {"type": "object", "description": "check -> parameter -> value"},
                "seed": {"type": "integer", "minimum": 0},
            },
        },
        status=202,
    ),
    Api(
        method="POST",
        path=f"{_DATASET}/embed",
        endpoint=embed,
        summary="Start computing the rows by which items are compared",
        body=text_schema(descriptor_="auto, model, look, near, words, timm:NAME or transformers:NAME"),
        status=202,
    ),
    Api(
        method="GET",
        path=f"{_DATASET}/findings",
        endpoint=findings,
        summary="What checks found",
        query={
            "state": "open, fixed, ignored or all",
            "kind": "only those of one check",
            "limit": "default 100; of each check in a report",
            "report": "true: a page with pictures",
        },
    ),
    Api(method="GET", path=f"{_DATASET}/findings/{{finding}}", endpoint=finding, summary="One finding"),
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
