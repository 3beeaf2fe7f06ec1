"""Versions, branches, delete and undo over HTTP: the same calls as Python, the same rows as ``--json``."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from loopworks.server import answer, fields
from loopworks.server.fields import Body
from loopworks.server.nearby import nearby
from loopworks.server.route import Api, text_schema
from loopworks.server.serving import Serving

if TYPE_CHECKING:
    from loopworks.data.stage import Dataset, Version

_PATH = "/api/datasets/{dataset}"
Work = Callable[["Dataset", Body], Body]


def _target(request: Request) -> "Dataset":
    serving: Serving = request.app.state.serving
    return serving.space.dataset(request.path_params["dataset"])


def _posted(work: Work) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        body = await answer.body(request)
        return answer.json(await run_in_threadpool(lambda: work(_target(request), body)))

    endpoint.__doc__ = work.__doc__
    return endpoint


def tags(request: Request) -> Response:
    """Tags of versions."""
    target = _target(request)
    return answer.json({"dataset": target.name, "tags": target.tags()})


def operations(request: Request) -> Response:
    """What was done to a dataset, newest first."""
    target = _target(request)
    limit = fields.whole(request, "limit", 100, most=10_000)
    return answer.json({"dataset": target.name, "operations": [o.to_json() for o in target.operations(limit)]})


def version(request: Request) -> Response:
    """One version, and who gave its labels."""
    target = _target(request)
    found = target.version(request.path_params["version"])
    return answer.json({"dataset": target.name, "version": found.to_json(), "authors": _authors(found)})


def rows(request: Request) -> Response:
    """Items of a version, in order of their id, a page at a time."""
    target, asked = _target(request), request.query_params
    limit, offset = fields.whole(request, "limit", 100, most=10_000), fields.whole(request, "offset", 0, least=0)
    found = target.version(request.path_params["version"]).rows(asked.get("split") or None)
    part = [row.to_json() for row in found[offset : offset + limit]]
    return answer.json({"dataset": target.name, "items": part, "count": len(found)})


def facts(request: Request) -> Response:
    """Who said what a version holds of an item, and when."""
    target = _target(request)
    found = target.version(request.path_params["version"]).facts(request.path_params["item"])
    return answer.json({"dataset": target.name, "annotations": [node.to_json() for node in found]})


def diff(request: Request) -> Response:
    """What changed between two versions."""
    target = _target(request)
    old, new = (target.version(request.query_params.get(name, "")) for name in ("old", "new"))
    return answer.json({"dataset": target.name, "diff": old.diff(new).to_json()})


def _tag(target: "Dataset", body: Body) -> Body:
    """Let a tag mean a version."""
    target.tag(fields.text(body, "version"), fields.text(body, "tag"), author=fields.text(body, "author", ""))
    return {"dataset": target.name, "tags": target.tags()}


def _restore(target: "Dataset", body: Body) -> Body:
    """Make the live set what a version holds."""
    report = target.restore(fields.text(body, "version"), author=fields.text(body, "author", ""))
    return {"dataset": target.name, **report.to_json()}


def _branch(target: "Dataset", body: Body) -> Body:
    """Make a new dataset that begins as a version."""
    author = fields.text(body, "author", "")
    return target.branch(fields.text(body, "name"), fields.text(body, "version", ""), author=author).to_json()


def _merge(target: "Dataset", body: Body) -> Body:
    """Bring what was done in a branch into a dataset."""
    rule: Any = fields.text(body, "rule", "fail")
    is_dry = fields.flag(body, "dry_run")
    report = target.merge(fields.text(body, "other"), rule=rule, author=fields.text(body, "author", ""), dry_run=is_dry)
    return {"dataset": target.name, **report.to_json()}


def _delete(target: "Dataset", body: Body) -> Body:
    """Take items out of a dataset."""
    ids = fields.items(target, body)
    op = target.delete(ids, author=fields.text(body, "author", ""), reason=fields.text(body, "reason", ""))
    return {"dataset": target.name, "operation": op, "items": ids}


def _undo(target: "Dataset", body: Body) -> Body:
    """Take an operation back."""
    done = target.undo(
        fields.text(body, "operation"), author=fields.text(body, "author", ""), force=fields.flag(body, "force")
    )
    return {"dataset": target.name, "operation": done.to_json()}


def _erase(target: "Dataset", body: Body) -> Body:
    """Erase items for good."""
    report = target.erase(
        fields.items(target, body), reason=fields.text(body, "reason"), author=fields.text(body, "author", "")
    )
    return {"dataset": target.name, **report.to_json()}


def _push(target: "Dataset", body: Body) -> Body:
    """Bring a frozen version to another workspace."""
    name, author = fields.text(body, "name", ""), fields.text(body, "author", "")
    return target.push(fields.text(body, "version"), fields.text(body, "target"), name=name, author=author).to_json()


async def pull(request: Request) -> Response:
    """Bring a frozen version here from another workspace."""
    body = await answer.body(request)
    serving: Serving = request.app.state.serving
    version, source = fields.text(body, "version"), fields.text(body, "source")
    name, author = fields.text(body, "name", ""), fields.text(body, "author", "")
    dataset = request.path_params["dataset"]
    report = await run_in_threadpool(lambda: serving.space.pull(dataset, version, source, name=name, author=author))
    return answer.json(report.to_json())


async def gc(request: Request) -> Response:
    """Remove, or by default count, bytes that nothing leads to."""
    body = await answer.body(request)
    serving: Serving = request.app.state.serving
    sweep = await run_in_threadpool(lambda: serving.space.gc(dry_run=not fields.flag(body, "run")))
    return answer.json(sweep.to_json())


def _authors(found: "Version") -> list[Body]:
    return [] if found.task.media == "row" else [one.to_json() for one in found.authors()]


_MANY = {"type": "array", "items": {"type": "string"}}
_FLAG = {"type": "boolean"}


def _with(schema: dict[str, Any], **more: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "properties": {**schema["properties"], **more}}


def _post(name: str, work: Work, schema: dict[str, Any]) -> Api:
    return Api(method="POST", path=f"{_PATH}/{name}", endpoint=_posted(work), summary=str(work.__doc__), body=schema)


_WHO = {"author_": "who does it"}
_WHICH = {"query_": "instead of items: all that fulfil it", **_WHO}
_NAMED = {"name_": "of the dataset where it goes; default the same", **_WHO}
_VERSION = f"{_PATH}/versions/{{version}}"
ROUTES = (
    Api(method="GET", path=_VERSION, endpoint=version, summary="One version, and who gave its labels"),
    Api(
        method="GET",
        path=f"{_VERSION}/items",
        endpoint=rows,
        summary="Items of a version",
        query={"split": "train, val or test", "limit": "items, 1..10000", "offset": "items before them"},
    ),
    Api(method="GET", path=f"{_VERSION}/items/{{item}}", endpoint=facts, summary="Who said what of an item"),
    Api(method="GET", path=f"{_PATH}/tags", endpoint=tags, summary="Tags of versions"),
    _post("tags", _tag, text_schema(version="id or tag of a version", tag="the tag", **_WHO)),
    Api(
        method="GET",
        path=f"{_PATH}/diff",
        endpoint=diff,
        summary="What changed between two versions",
        query={"old": "id or tag of a version", "new": "id or tag of a version"},
    ),
    _post("restore", _restore, text_schema(version="id or tag of a version", **_WHO)),
    _post("branch", _branch, text_schema(name="of the new dataset", version_="default the newest", **_WHO)),
    _post(
        "merge",
        _merge,
        _with(text_schema(other="the branch", rule_="fail, ours, theirs or newest", **_WHO), dry_run=_FLAG),
    ),
    _post("delete", _delete, _with(text_schema(reason_="why", **_WHICH), items=_MANY)),
    _post("undo", _undo, _with(text_schema(operation="its id", **_WHO), force=_FLAG)),
    Api(
        method="GET",
        path=f"{_PATH}/operations",
        endpoint=operations,
        summary="What was done to a dataset",
        query={"limit": "operations, 1..10000"},
    ),
    _post("erase", _erase, _with(text_schema(reason="why", **_WHICH), items=_MANY)),
    Api(
        method="POST",
        path=f"{_PATH}/push",
        endpoint=nearby(_posted(_push)),
        summary=str(_push.__doc__),
        body=text_schema(version="id or tag of a version", target="folder of the other workspace", **_NAMED),
    ),
    Api(
        method="POST",
        path=f"{_PATH}/pull",
        endpoint=nearby(pull),
        summary=str(pull.__doc__),
        body=text_schema(version="id or tag of a version", source="folder of the other workspace", **_NAMED),
    ),
    Api(
        method="POST",
        path="/api/gc",
        endpoint=gc,
        summary="Count or remove bytes that nothing leads to",
        body={"type": "object", "properties": {"run": _FLAG}},
    ),
)
