"""Versions, branches, delete and undo over HTTP: the same calls as Python, the same rows as ``--json``."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Denied, Invalid
from loopworks.server import answer
from loopworks.server.guard import LOOPBACK
from loopworks.server.route import Api, text_schema
from loopworks.server.serving import Serving

if TYPE_CHECKING:
    from loopworks.data.stage import Dataset

_PATH = "/api/datasets/{dataset}"
Body = dict[str, Any]
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
    limit = request.query_params.get("limit", "100")
    if not limit.isdecimal() or not 1 <= int(limit) <= 10_000:
        raise Invalid("limit", "1..10000", limit)
    return answer.json({"dataset": target.name, "operations": [o.to_json() for o in target.operations(int(limit))]})


def diff(request: Request) -> Response:
    """What changed between two versions."""
    target = _target(request)
    old, new = (target.version(request.query_params.get(name, "")) for name in ("old", "new"))
    return answer.json({"dataset": target.name, "diff": old.diff(new).to_json()})


def _tag(target: "Dataset", body: Body) -> Body:
    """Let a tag mean a version."""
    target.tag(_text(body, "version"), _text(body, "tag"), author=_text(body, "author", ""))
    return {"dataset": target.name, "tags": target.tags()}


def _restore(target: "Dataset", body: Body) -> Body:
    """Make the live set what a version holds."""
    report = target.restore(_text(body, "version"), author=_text(body, "author", ""))
    return {"dataset": target.name, **report.to_json()}


def _branch(target: "Dataset", body: Body) -> Body:
    """Make a new dataset that begins as a version."""
    author = _text(body, "author", "")
    return target.branch(_text(body, "name"), _text(body, "version", ""), author=author).to_json()


def _merge(target: "Dataset", body: Body) -> Body:
    """Bring what was done in a branch into a dataset."""
    rule: Any = _text(body, "rule", "fail")
    is_dry = _flag(body, "dry_run")
    report = target.merge(_text(body, "other"), rule=rule, author=_text(body, "author", ""), dry_run=is_dry)
    return {"dataset": target.name, **report.to_json()}


def _delete(target: "Dataset", body: Body) -> Body:
    """Take items out of a dataset."""
    ids = _items(target, body)
    op = target.delete(ids, author=_text(body, "author", ""), reason=_text(body, "reason", ""))
    return {"dataset": target.name, "operation": op, "items": ids}


def _undo(target: "Dataset", body: Body) -> Body:
    """Take an operation back."""
    done = target.undo(_text(body, "operation"), author=_text(body, "author", ""), force=_flag(body, "force"))
    return {"dataset": target.name, "operation": done.to_json()}


def _erase(target: "Dataset", body: Body) -> Body:
    """Erase items for good."""
    report = target.erase(_items(target, body), reason=_text(body, "reason"), author=_text(body, "author", ""))
    return {"dataset": target.name, **report.to_json()}


def _push(target: "Dataset", body: Body) -> Body:
    """Bring a frozen version to another workspace."""
    name, author = _text(body, "name", ""), _text(body, "author", "")
    return target.push(_text(body, "version"), _text(body, "target"), name=name, author=author).to_json()


def _nearby(endpoint: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """An endpoint that takes a folder of this machine, and so serves this machine alone."""

    async def guarded(request: Request) -> Response:
        serving: Serving = request.app.state.serving
        if (host := serving.space.settings.host) not in LOOPBACK:
            raise Denied(
                f"folders of the server are for clients on its own machine; got a server at {host}",
                "run loopworks data push or pull there",
            )
        answered: Response = await endpoint(request)
        return answered

    return guarded


async def pull(request: Request) -> Response:
    """Bring a frozen version here from another workspace."""
    body = await answer.body(request)
    serving: Serving = request.app.state.serving
    version, source = _text(body, "version"), _text(body, "source")
    name, author = _text(body, "name", ""), _text(body, "author", "")
    dataset = request.path_params["dataset"]
    report = await run_in_threadpool(lambda: serving.space.pull(dataset, version, source, name=name, author=author))
    return answer.json(report.to_json())


async def gc(request: Request) -> Response:
    """Remove, or by default count, bytes that nothing leads to."""
    body = await answer.body(request)
    serving: Serving = request.app.state.serving
    sweep = await run_in_threadpool(lambda: serving.space.gc(dry_run=not _flag(body, "run")))
    return answer.json(sweep.to_json())


def _items(target: "Dataset", body: Body) -> list[str]:
    found = body.get("items")
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise Invalid("items", "a list of item ids, one or more", found)
    return [target.item(one).id for one in found]


def _text(body: Body, name: str, default: str | None = None) -> str:
    found = body.get(name, default)
    if not isinstance(found, str):
        raise Invalid(name, "text", "nothing" if found is None else found)
    return found


def _flag(body: Body, name: str) -> bool:
    found = body.get(name, False)
    if not isinstance(found, bool):
        raise Invalid(name, "true or false", found)
    return found


_MANY = {"type": "array", "items": {"type": "string"}}
_FLAG = {"type": "boolean"}


def _with(schema: dict[str, Any], **more: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "properties": {**schema["properties"], **more}}


def _post(name: str, work: Work, schema: dict[str, Any]) -> Api:
    return Api(method="POST", path=f"{_PATH}/{name}", endpoint=_posted(work), summary=str(work.__doc__), body=schema)


_WHO = {"author_": "who does it"}
_NAMED = {"name_": "of the dataset where it goes; default the same", **_WHO}
ROUTES = (
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
    _post("delete", _delete, _with(text_schema(reason_="why", **_WHO), items=_MANY)),
    _post("undo", _undo, _with(text_schema(operation="its id", **_WHO), force=_FLAG)),
    Api(
        method="GET",
        path=f"{_PATH}/operations",
        endpoint=operations,
        summary="What was done to a dataset",
        query={"limit": "operations, 1..10000"},
    ),
    _post("erase", _erase, _with(text_schema(reason="why", **_WHO), items=_MANY)),
    Api(
        method="POST",
        path=f"{_PATH}/push",
        endpoint=_nearby(_posted(_push)),
        summary=str(_push.__doc__),
        body=text_schema(version="id or tag of a version", target="folder of the other workspace", **_NAMED),
    ),
    Api(
        method="POST",
        path=f"{_PATH}/pull",
        endpoint=_nearby(pull),
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
