"""Looking at a dataset over HTTP: count, search and saved views; ``items?query=`` is in ``space``."""

from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Invalid
from loopworks.server import answer
from loopworks.server.fields import text
from loopworks.server.route import Api, text_schema
from loopworks.server.serving import Serving
from loopworks.server.starting import started

if TYPE_CHECKING:
    from loopworks.data.look import Look

_DATASET = "/api/datasets/{dataset}"


def _look(request: Request) -> "Look":
    serving: Serving = request.app.state.serving
    return serving.space.dataset(request.path_params["dataset"]).look


def count(request: Request) -> Response:
    """How many items fulfil a query, by a field if wanted."""
    query, by = request.query_params.get("query", ""), request.query_params.get("by", "")
    look = _look(request)
    body: dict[str, object] = {"count": look.count(query)}
    if by:
        body["by"] = look.figures(query, by)
    return answer.json(body)


def search(request: Request) -> Response:
    """Items with all words of a text, the best first."""
    asked = request.query_params
    limit = asked.get("limit", "100")
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 5 and 1 <= int(limit) <= 1000):
        raise Invalid("limit", "between 1 and 1000", limit)
    found = _look(request).search(asked.get("text", ""), query=asked.get("query", ""), limit=int(limit))
    return answer.json({"items": [item.to_json() for item in found]})


def views(request: Request) -> Response:
    """Saved views, by name."""
    return answer.json({"views": [view.to_json() for view in _look(request).views()]})


async def save_view(request: Request) -> Response:
    """Keep a query under a name."""
    body = await answer.body(request)
    given = {name: body.get(name, "") for name in ("name", "query", "sort", "author")}
    for name, value in given.items():
        if not isinstance(value, str):
            raise Invalid(name, "text", type(value).__name__)
    look = await run_in_threadpool(_look, request)
    view = await run_in_threadpool(
        look.save_view, given["name"], given["query"], sort=given["sort"], author=given["author"]
    )
    return answer.json({"view": view.to_json()}, 201)


def remove_view(request: Request) -> Response:
    """Forget a saved view."""
    name = request.path_params["view"]
    _look(request).remove_view(name)
    return answer.json({"removed": name})


def scored(request: Request) -> Response:
    """The models whose predictions are there, the newest first."""
    return answer.json({"scored": [one.to_json() for one in _look(request).scored()]})


async def score(request: Request) -> Response:
    """Start asking a model about items; the answer is its job."""
    body = await answer.body(request)
    serving: Serving = request.app.state.serving
    dataset, model, query = request.path_params["dataset"], text(body, "model", ""), text(body, "query", "")
    return await started(lambda: serving.space.score_job(dataset, model, query=query))


_QUERY = {"query": "see docs/query.md, or the name of a view"}
ROUTES = (
    Api(
        method="GET",
        path=f"{_DATASET}/count",
        endpoint=count,
        summary="Count items of a query",
        query={**_QUERY, "by": "a field: label, split, tag, attributes.NAME ..."},
    ),
    Api(
        method="GET",
        path=f"{_DATASET}/search",
        endpoint=search,
        summary="Search items for words",
        query={"text": "words", **_QUERY, "limit": "items, 1..1000"},
    ),
    Api(method="GET", path=f"{_DATASET}/scored", endpoint=scored, summary="Models whose predictions are there"),
    Api(
        method="POST",
        path=f"{_DATASET}/score",
        endpoint=score,
        summary="Start asking a model about items",
        body=text_schema(model_="NAME:NUMBER; default the newest", query_="only items that fulfil it"),
        status=202,
    ),
    Api(method="GET", path=f"{_DATASET}/views", endpoint=views, summary="Saved views"),
    Api(
        method="POST",
        path=f"{_DATASET}/views",
        endpoint=save_view,
        summary="Save a view",
        body=text_schema(name="letters, digits, - and _", query="the query", sort_="the order", author_="who saves it"),
        status=201,
    ),
    Api(method="DELETE", path=f"{_DATASET}/views/{{view}}", endpoint=remove_view, summary="Forget a view"),
)
