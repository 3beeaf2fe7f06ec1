"""Recipes, comparisons, aliases and cards over HTTP."""

import base64
import binascii
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Invalid
from loopworks.server import answer
from loopworks.server.nearby import nearby
from loopworks.server.route import Api, text_schema
from loopworks.server.serving import Serving

if TYPE_CHECKING:
    from loopworks.workspace import Workspace

_MODEL = "/api/models/{model}"


def _space(request: Request) -> "Workspace":
    serving: Serving = request.app.state.serving
    return serving.space


def recipes(request: Request) -> Response:
    """Every recipe with the task kinds that it learns and its parameters."""
    return answer.json({"recipes": _space(request).recipes(request.query_params.get("task", ""))})


def compare(request: Request) -> Response:
    """Two models on the same test items."""
    left, right = (request.query_params.get(name, "") for name in ("left", "right"))
    if not left or not right:
        raise Invalid("left and right", "two models", f"{left or 'nothing'} and {right or 'nothing'}")
    return answer.json({"comparison": _space(request).compare(left, right).to_json()})


async def alias(request: Request) -> Response:
    """Give a model a name; a new champion must be better than the one before."""
    body = await answer.body(request)
    name, force = body.get("alias"), body.get("force", False)
    if not isinstance(name, str) or not isinstance(force, bool):
        raise Invalid("request body", "{'alias': text, 'force': true or false}", body)
    model = request.path_params["model"]
    found = await run_in_threadpool(_space(request).alias, model, name, force=force)
    ref = await run_in_threadpool(lambda: _space(request).model(model).ref)
    return answer.json({"model": ref, "alias": name, "comparison": None if found is None else found.to_json()})


def card(request: Request) -> Response:
    """The card of a model as a page, or as Markdown."""
    form = request.query_params.get("form", "html")
    text = _space(request).card(request.path_params["model"], form=form)
    if form == "markdown":
        return Response(text, media_type="text/markdown; charset=utf-8")
    headers = {
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox",
    }
    return Response(text, media_type="text/html; charset=utf-8", headers=headers)


async def add(request: Request) -> Response:
    """Take in a model that was trained elsewhere, from the server's disk."""
    from loopworks.train.adopt import signature

    body = await answer.body(request)
    for name, kind in (("path", str), ("name", str), ("version", str), ("task", str), ("classes", list)):
        if not isinstance(body.get(name, kind()), kind):
            raise Invalid(name, "text" if kind is str else "a list of text", body[name])
    if not body.get("path") or not body.get("name"):
        raise Invalid("path and name", "given", sorted(body))
    told = body.get("signature", {})
    if not isinstance(told, dict):
        raise Invalid("signature", "an object", type(told).__name__)
    space = _space(request)
    version = await run_in_threadpool(space.find_version, body["version"]) if body.get("version") else ""
    found = await run_in_threadpool(
        lambda: space.register(
            body["path"],
            body["name"],
            task=body.get("task", ""),
            version=version,
            classes=[str(one) for one in body.get("classes", [])],
            is_multi=body.get("is_multi") is True,
            signature=signature(told),
        )
    )
    return answer.json({"model": found.to_json()}, 201)


async def explain(request: Request) -> Response:
    """Why a model or deployment answers as it does for one item: an image in base64, a text or a row."""
    body = await answer.body(request)
    kinds = [name for name in ("image", "text", "row") if name in body]
    label = body.get("label", "")
    if len(kinds) != 1 or not isinstance(label, str):
        raise Invalid(
            "request body", "{'image': base64} or {'text': text} or {'row': object}, and 'label'", sorted(body)
        )
    given = body[kinds[0]]
    if not isinstance(given, dict if kinds[0] == "row" else str):
        raise Invalid(kinds[0], "an object" if kinds[0] == "row" else "text", type(given).__name__)
    item: Any = given
    if kinds[0] == "image":
        try:
            item = base64.b64decode(item, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Invalid("image", "base64", str(error)) from None
    elif kinds[0] == "text":
        item = item.encode()  # a text is never taken for the path of a file here
    found = await run_in_threadpool(_space(request).explain, request.path_params["model"], item, label=label)
    picture = base64.b64encode(found.picture).decode() if found.picture else None
    return answer.json({"reasons": found.to_json(), "picture": picture})


def board(request: Request) -> Response:
    """The leader board of the search that a model comes from."""
    return answer.json({"board": _space(request).board(request.path_params["model"])})


def front(request: Request) -> Response:
    """What each variant of a model is worth, as JSON or as a picture."""
    from loopworks.optimize.front import svg

    form = request.query_params.get("form", "json")
    if form not in ("json", "svg"):
        raise Invalid("form of a front", "json or svg", form)
    found = _space(request).front(request.path_params["model"], host=request.query_params.get("host", ""))
    if form == "svg":
        headers = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}
        return Response(svg(found), media_type="image/svg+xml", headers=headers)
    return answer.json({"front": found})


async def record(request: Request) -> Response:
    """Take over what was measured of a model on another machine: the content of the file that ``bench`` wrote."""
    body = await answer.body(request)
    target = request.query_params.get("target", "latency")
    made = await run_in_threadpool(lambda: _space(request).record(request.path_params["model"], body, target=target))
    return answer.json({"model": made.to_json()}, 201)


async def search(request: Request) -> Response:
    """Start a search for recipe and parameters; the answer is its job."""
    body = await answer.body(request)
    space = _space(request)
    known = {"version": str, "budget": str | int | float, "trials": int, "money": int | float, "recipes": list}
    known |= {"latency_ms": int | float, "max_drop": int | float}
    known |= {"params": dict, "name": str, "seed": int}
    for name, value in body.items():
        if name not in known or isinstance(value, bool) or not isinstance(value, known[name]):
            raise Invalid("request body", f"an object with {', '.join(known)}", {name: value})
    if "version" not in body:
        raise Invalid("version", "a dataset or the id of a version", "nothing")
    version = await run_in_threadpool(space.find_version, body.pop("version"))
    job = await run_in_threadpool(lambda: space.search_job(version, **body))
    return answer.json({"job": job.to_json()}, 202, {"Location": f"/api/jobs/{job.id}"})


def evaluation(request: Request) -> Response:
    """Everything that was measured of a model."""
    return answer.json({"evaluation": _space(request).evaluation(request.path_params["model"])})


ROUTES = (
    Api(
        method="GET",
        path="/api/recipes",
        endpoint=recipes,
        summary="Recipes and their parameters",
        query={"task": "only those that learn this task kind"},
    ),
    Api(
        method="GET",
        path="/api/compare",
        endpoint=compare,
        summary="Two models on the same test items",
        query={"left": "a model", "right": "another"},
    ),
    Api(
        method="POST",
        path=f"{_MODEL}/alias",
        endpoint=alias,
        summary="Name a model, e.g. champion",
        body=text_schema(alias="champion, challenger, or any word", force_="true: also where it is not better"),
    ),
    Api(
        method="GET",
        path=f"{_MODEL}/card",
        endpoint=card,
        summary="The card of a model",
        query={"form": "html or markdown"},
        answer="text/html",
    ),
    Api(
        method="POST",
        path=f"{_MODEL}/explain",
        endpoint=explain,
        summary="Why a model answers as it does",
        body={
            "type": "object",
            "properties": {
                "image": {"type": "string", "description": "base64"},
                "text": {"type": "string"},
                "row": {"type": "object"},
                "label": {"type": "string", "description": "a class; default the model's answer"},
            },
        },
    ),
    Api(
        method="POST",
        path="/api/models",
        endpoint=nearby(add),
        summary="Take in a model from the server's disk",
        body={
            "type": "object",
            "required": ["path", "name"],
            "properties": {
                "path": {"type": "string", "description": "an .onnx file or a model folder"},
                "name": {"type": "string"},
                "version": {"type": "string", "description": "dataset or version to score it on"},
                "task": {"type": "string"},
                "classes": {"type": "array", "items": {"type": "string"}},
                "is_multi": {"type": "boolean"},
                "signature": {
                    "type": "object",
                    "description": "image_size, fit, mean, std, answers, output: see docs/train.md",
                },
            },
        },
        status=201,
    ),
    Api(method="GET", path=f"{_MODEL}/board", endpoint=board, summary="The trials of a model's search"),
    Api(
        method="POST",
        path="/api/search",
        endpoint=search,
        summary="Start a search for recipe and parameters",
        body={
            "type": "object",
            "required": ["version"],
            "properties": {
                "version": {"type": "string", "description": "dataset or version"},
                "budget": {"type": ["string", "number"], "description": "time, e.g. 10m"},
                "trials": {"type": "integer"},
                "money": {"type": "number", "description": "by the setting price_per_hour"},
                "latency_ms": {"type": "number", "description": "what one item may take in the model's quickest form"},
                "max_drop": {"type": "number", "description": "what that form may lose, in 0..1"},
                "recipes": {"type": "array", "items": {"type": "string"}},
                "params": {"type": "object", "description": "fixed for all trials"},
                "name": {"type": "string", "description": "of the model"},
                "seed": {"type": "integer"},
            },
        },
        status=202,
    ),
    Api(
        method="GET",
        path=f"{_MODEL}/front",
        endpoint=front,
        summary="What each variant of a model is worth",
        query={"host": "another machine that was recorded", "form": "json or svg"},
    ),
    Api(
        method="POST",
        path=f"{_MODEL}/measured",
        endpoint=record,
        summary="Take over what was measured on another machine",
        query={"target": "latency, throughput or size"},
        body={
            "type": "object",
            "required": ["format", "kind", "model", "host", "variants"],
            "properties": {
                "format": {"const": 1},
                "kind": {"const": "loopworks-bench"},
                "model": {"type": "object"},
                "host": {"type": "object"},
                "variants": {"type": "array", "items": {"type": "object"}},
            },
        },
        status=201,
    ),
    Api(method="GET", path=f"{_MODEL}/evaluation", endpoint=evaluation, summary="All measurements of a model"),
)
