"""Items one by one and by query over HTTP: show, history, splits by hand, tags, attributes, labels taken away."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from loopworks.server import answer, fields
from loopworks.server.route import Api, text_schema
from loopworks.server.serving import Serving

if TYPE_CHECKING:
    from loopworks.data.stage import Dataset

_DATASET = "/api/datasets/{dataset}"
Work = Callable[["Dataset", fields.Body], fields.Body]


def _target(request: Request) -> "Dataset":
    serving: Serving = request.app.state.serving
    return serving.space.dataset(request.path_params["dataset"])


def _posted(work: Work) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        body = await answer.body(request)
        return answer.json(await run_in_threadpool(lambda: work(_target(request), body)))

    endpoint.__doc__ = work.__doc__
    return endpoint


def show(request: Request) -> Response:
    """One item; with ``verify=true`` its bytes are read and compared with its id first."""
    target = _target(request)
    item = target.item(request.path_params["item"])
    is_verified = request.query_params.get("verify") == "true"
    if is_verified:
        target.verify(item)
    return answer.json({"dataset": target.name, "item": item.to_json(), "is_verified": is_verified})


def history(request: Request) -> Response:
    """Everything that was ever done to an item, oldest first."""
    target = _target(request)
    item = target.item(request.path_params["item"]).id
    events = [event.to_json() for event in target.history(item)]
    return answer.json({"dataset": target.name, "item": item, "events": events})


def classes(request: Request) -> Response:
    """The classes, and how many items have each."""
    return answer.json(_classes(_target(request)))


def _add_classes(target: "Dataset", body: fields.Body) -> fields.Body:
    """Add classes after those that exist."""
    target.add_classes(fields.names(body, "add"), author=fields.text(body, "author", ""))
    return _classes(target)


def _classes(target: "Dataset") -> fields.Body:
    return {"dataset": target.name, "classes": list(target.schema.classes), "by_class": target.counts()["by_class"]}


def _assign(target: "Dataset", body: fields.Body) -> fields.Body:
    """Put items into a split by hand."""
    ids, split = fields.items(target, body), fields.text(body, "split")
    op = target.assign(ids, split, author=fields.text(body, "author", ""), force=fields.flag(body, "force"))
    return {"dataset": target.name, "operation": op, "items": ids}


def _tag_items(target: "Dataset", body: fields.Body) -> fields.Body:
    """Give items tags, beside those that they have."""
    ids = fields.items(target, body)
    op = target.tag_items(ids, *fields.names(body, "tags"), author=fields.text(body, "author", ""))
    return {"dataset": target.name, "operation": op, "items": ids}


def _untag_items(target: "Dataset", body: fields.Body) -> fields.Body:
    """Take tags away from items."""
    ids = fields.items(target, body)
    op = target.untag(ids, *fields.names(body, "tags"), author=fields.text(body, "author", ""))
    return {"dataset": target.name, "operation": op, "items": ids}


def _describe(target: "Dataset", body: fields.Body) -> fields.Body:
    """Set attributes of items; the others stay, and null takes one away."""
    ids = fields.items(target, body)
    op = target.describe(ids, fields.mapping(body, "attributes"), author=fields.text(body, "author", ""))
    return {"dataset": target.name, "operation": op, "items": ids}


def _clear(target: "Dataset", body: fields.Body) -> fields.Body:
    """Take the labels of items away; the history keeps them."""
    ids = fields.items(target, body)
    op = target.clear_labels(ids, author=fields.text(body, "author", ""))
    return {"dataset": target.name, "operation": op, "cleared": ids}


_MANY = {"type": "array", "items": {"type": "string"}}
_WHICH = {"query_": "instead of items: all that fulfil it", "author_": "who does it"}


def _post(name: str, work: Work, schema: dict[str, Any], **more: Any) -> Api:
    body = {**schema, "properties": {**schema["properties"], **more}}
    return Api(method="POST", path=f"{_DATASET}/{name}", endpoint=_posted(work), summary=str(work.__doc__), body=body)


ROUTES = (
    Api(
        method="GET",
        path=f"{_DATASET}/items/{{item}}",
        endpoint=show,
        summary="One item",
        query={"verify": "true: its bytes are read and compared with its id"},
    ),
    Api(method="GET", path=f"{_DATASET}/items/{{item}}/history", endpoint=history, summary="What was done to an item"),
    Api(method="GET", path=f"{_DATASET}/classes", endpoint=classes, summary="Classes of a dataset"),
    _post("classes", _add_classes, text_schema(author_="who does it"), add=_MANY),
    _post(
        "assign",
        _assign,
        text_schema(split="train, val or test", **_WHICH),
        items=_MANY,
        force={"type": "boolean", "description": "also out of the test set"},
    ),
    _post("tag-items", _tag_items, text_schema(**_WHICH), items=_MANY, tags=_MANY),
    _post("untag-items", _untag_items, text_schema(**_WHICH), items=_MANY, tags=_MANY),
    _post(
        "describe",
        _describe,
        text_schema(**_WHICH),
        items=_MANY,
        attributes={"type": "object", "description": "name -> value; null takes one away"},
    ),
    _post("clear-labels", _clear, text_schema(**_WHICH), items=_MANY),
)
