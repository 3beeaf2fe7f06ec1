"""The workspace over HTTP: the same calls as the Python API, the same rows as the command line's ``--json``."""

from typing import TYPE_CHECKING, Any, cast

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Invalid
from loopworks.server import answer
from loopworks.server.route import Api, text_schema
from loopworks.server.serving import Serving
from loopworks.server.starting import started

if TYPE_CHECKING:
    from loopworks.data.stage import State
    from loopworks.workspace import Workspace

_DATASET = "/api/datasets/{dataset}"


def _space(request: Request) -> "Workspace":
    serving: Serving = request.app.state.serving
    return serving.space


def _path(request: Request, name: str) -> str:
    found: str = request.path_params[name]
    return found


def health(request: Request) -> Response:
    """The server runs."""
    return answer.json({"status": "ok"})


def workspace(request: Request) -> Response:
    """What the workspace holds."""
    return answer.json(_space(request).info())


def datasets(request: Request) -> Response:
    """All datasets with their counts."""
    return answer.json({"datasets": _space(request).datasets()})


async def make_dataset(request: Request) -> Response:
    """Make a dataset, or give the one that is there."""
    body = await answer.body(request)
    found = await run_in_threadpool(
        _space(request).dataset,
        _text(body, "name"),
        _text(body, "task"),
        classes=tuple(_list(body, "classes")),
        is_multi=body.get("is_multi") is True,
    )
    return answer.json(await run_in_threadpool(found.to_json), 201)


def dataset(request: Request) -> Response:
    """One dataset with its counts."""
    return answer.json(_space(request).dataset(_path(request, "dataset")).to_json())


def items(request: Request) -> Response:
    """Items of a dataset, a page at a time."""
    asked = request.query_params
    if asked.get("query") or asked.get("sort"):
        if clash := [name for name in ("state", "split", "label") if asked.get(name)]:
            raise Invalid("query", "alone: state, split and label are fields of it", f"{', '.join(clash)} beside it")
        target = _space(request).dataset(_path(request, "dataset"))
        rows = target.find(
            asked.get("query", ""),
            sort=asked.get("sort", ""),
            limit=_count(request, "limit", 100),
            after=asked.get("after") or None,
        )
        return answer.json({"items": [item.to_json() for item in rows]})
    found = (
        _space(request)
        .dataset(_path(request, "dataset"))
        .items(
            state=cast("State", asked.get("state", "all")),
            split=asked.get("split") or None,
            label=asked.get("label") or None,
            limit=_count(request, "limit", 100),
            after=asked.get("after") or None,
        )
    )
    return answer.json({"items": [item.to_json() for item in found]})


def picture(request: Request) -> Response:
    """An item's image file, as it was added."""
    target = _space(request).dataset(_path(request, "dataset"))
    item = target.item(_path(request, "item"))
    headers = {
        "ETag": f'"{item.id}"',
        "Cache-Control": "private, max-age=31536000, immutable",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    if request.headers.get("if-none-match") == f'"{item.id}"':
        return Response(status_code=304, headers=headers)
    return Response(target.read(item), headers=headers, media_type=item.mime)


async def label(request: Request) -> Response:
    """Label items: ``{"labels": {ITEM: [CLASS, ...]}, "author": ...}``."""
    body = await answer.body(request)
    given = body.get("labels")
    if not isinstance(given, dict) or not all(isinstance(v, list) for v in given.values()):
        raise Invalid("labels", "an object of item to list of classes", type(given).__name__)
    target = await run_in_threadpool(_space(request).dataset, _path(request, "dataset"))
    await run_in_threadpool(target.label, given, author=_text(body, "author", ""))
    return answer.json({"labeled": len(given)})


async def freeze(request: Request) -> Response:
    """Freeze the labeled items as a version."""
    body = await answer.body(request)
    target = await run_in_threadpool(_space(request).dataset, _path(request, "dataset"))
    version = await run_in_threadpool(target.freeze, _text(body, "message", ""), author=_text(body, "author", ""))
    return answer.json(version.to_json(), 201)


def versions(request: Request) -> Response:
    """Frozen versions, newest first."""
    found = _space(request).dataset(_path(request, "dataset")).versions()
    return answer.json({"versions": [version.to_json() for version in found]})


def following(request: Request) -> Response:
    """What to label next, with the model's proposals."""
    asked = request.query_params
    work = _space(request).labeling(_path(request, "dataset"), asked.get("model", ""))
    picks = work.next(_count(request, "count", 10), sampler=asked.get("sampler", ""))
    return answer.json({"picks": [pick.to_json() for pick in picks]})


def models(request: Request) -> Response:
    """All models, newest first."""
    space = _space(request)
    return answer.json({"models": [model.to_json() for model in space.models()], "aliases": space.aliases()})


def model(request: Request) -> Response:
    """One model with its bundle: variants, scores, signature."""
    found = _space(request).model(_path(request, "model"))
    return answer.json({"model": found.to_json(), "bundle": _space(request).bundle(found).to_json()})


async def train(request: Request) -> Response:
    """Start a training; the answer is its job."""
    body = await answer.body(request)
    space = _space(request)
    version = await run_in_threadpool(space.find_version, _text(body, "version"))
    return await started(
        lambda: space.train_job(
            version,
            recipe=_text(body, "recipe", "auto"),
            params=_object(body, "params"),
            budget=_budget(body),
            name=_text(body, "name", ""),
            seed=_seed(body),
            workers=_workers(body),
        )
    )


async def optimize(request: Request) -> Response:
    """Start an optimization; the answer is its job."""
    body = await answer.body(request)
    space = _space(request)
    drop = body.get("max_drop", 0.01)
    if isinstance(drop, bool) or not isinstance(drop, int | float) or not 0 <= drop <= 1:
        raise Invalid("max_drop", "a number in 0..1", drop)
    lists = {name: body[name] for name in ("variants", "asked") if name in body}
    for name, value in lists.items():
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise Invalid(name, "a list of text", value)
    return await started(
        lambda: space.optimize_job(
            _text(body, "model"),
            max_drop=float(drop),
            target=_text(body, "target", "latency"),
            budget=_budget(body),
            **lists,
        )
    )


def jobs(request: Request) -> Response:
    """Jobs, newest first."""
    return answer.json({"jobs": [job.to_json() for job in _space(request).jobs.list(limit=100)]})


def job(request: Request) -> Response:
    """One job."""
    return answer.json({"job": _space(request).jobs.get(_path(request, "job")).to_json()})


def cancel(request: Request) -> Response:
    """Stop a job."""
    found = _space(request).jobs.get(_path(request, "job"))
    _space(request).jobs.cancel(found.id)
    return answer.json({"job": _space(request).jobs.get(found.id).to_json()})


def lineage(request: Request) -> Response:
    """Where something came from, back to the labels."""
    what = request.query_params.get("of", "")
    if not what:
        raise Invalid("of", "a prediction, deployment, model, version or dataset", "nothing")
    return answer.json({"lineage": [node.to_json() for node in _space(request).lineage(what)]})


def _text(body: dict[str, Any], name: str, default: str | None = None) -> str:
    found = body.get(name, default)
    if not isinstance(found, str):
        raise Invalid(name, "text", "nothing" if found is None else type(found).__name__)
    return found


def _count(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 5 and 1 <= int(text) <= 1000):
        raise Invalid(name, "between 1 and 1000", text)
    return int(text)


def _seed(body: dict[str, Any]) -> int | None:
    found = body.get("seed")
    if found is not None and (isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 1 << 32):
        raise Invalid("seed", "a whole number in 0..4294967295", found)
    return found


def _workers(body: dict[str, Any]) -> int | None:
    found = body.get("workers")
    if found is not None and (isinstance(found, bool) or not isinstance(found, int)):
        raise Invalid("workers", "a whole number", found)
    return found


def _budget(body: dict[str, Any]) -> str | float | None:
    found = body.get("budget")
    if found is not None and (isinstance(found, bool) or not isinstance(found, str | int | float)):
        raise Invalid("budget", "a duration such as 5m", found)
    return found


def _list(body: dict[str, Any], name: str) -> list[str]:
    found = body.get(name, [])
    if not isinstance(found, list) or not all(isinstance(x, str) for x in found):
        raise Invalid(name, "a list of text", found)
    return found


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    found = {} if body.get(name) is None else body[name]
    if not isinstance(found, dict):
        raise Invalid(name, "an object", type(found).__name__)
    return found


_TRAINING = text_schema(
    version="version id, or a dataset to freeze", recipe_="recipe", budget_="e.g. 5m", name_="model"
)
_TRAINING["properties"]["workers"] = {"type": "integer", "description": "processes of a Ray cluster, together"}


_PAGE = {"limit": "items, 1..1000", "after": "go on after this item id"}
ROUTES = (
    Api(method="GET", path="/api/health", endpoint=health, summary="The server runs"),
    Api(method="GET", path="/api/workspace", endpoint=workspace, summary="What the workspace holds"),
    Api(method="GET", path="/api/datasets", endpoint=datasets, summary="All datasets"),
    Api(
        method="POST",
        path="/api/datasets",
        endpoint=make_dataset,
        summary="Make a dataset",
        body=text_schema(name="its name", task="task kind, e.g. image-classification"),
        status=201,
    ),
    Api(method="GET", path=_DATASET, endpoint=dataset, summary="One dataset"),
    Api(
        method="GET",
        path=f"{_DATASET}/items",
        endpoint=items,
        summary="Items of a dataset",
        query={
            "state": "all, labeled or unlabeled",
            "split": "train, val or test",
            "label": "a class",
            "query": "see docs/query.md, or the name of a view",
            "sort": "such as -size",
            **_PAGE,
        },
    ),
    Api(
        method="GET",
        path=f"{_DATASET}/items/{{item}}/image",
        endpoint=picture,
        summary="An item's image",
        answer="image/*",
    ),
    Api(
        method="GET",
        path=f"{_DATASET}/next",
        endpoint=following,
        summary="What to label next",
        query={"count": "how many, 1..1000", "model": "who proposes", "sampler": "random, uncertain or diverse"},
    ),
    Api(
        method="POST",
        path=f"{_DATASET}/labels",
        endpoint=label,
        summary="Label items",
        body={
            "type": "object",
            "required": ["labels"],
            "properties": {
                "labels": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
                "author": {"type": "string"},
            },
        },
    ),
    Api(
        method="POST",
        path=f"{_DATASET}/freeze",
        endpoint=freeze,
        summary="Freeze a version",
        body=text_schema(message_="what this version is", author_="who froze it"),
        status=201,
    ),
    Api(method="GET", path=f"{_DATASET}/versions", endpoint=versions, summary="Frozen versions"),
    Api(method="GET", path="/api/models", endpoint=models, summary="All models"),
    Api(method="GET", path="/api/models/{model}", endpoint=model, summary="One model and its bundle"),
    Api(
        method="POST",
        path="/api/train",
        endpoint=train,
        summary="Start a training",
        body=_TRAINING,
        status=202,
    ),
    Api(
        method="POST",
        path="/api/optimize",
        endpoint=optimize,
        summary="Start an optimization",
        body={
            "type": "object",
            "required": ["model"],
            "properties": {
                "model": {"type": "string", "description": "NAME:NUMBER"},
                "target": {"type": "string", "description": "latency, throughput or size"},
                "max_drop": {"type": "number", "description": "accuracy that may be lost, in 0..1"},
                "variants": {"type": "array", "items": {"type": "string"}, "description": "only these"},
                "asked": {"type": "array", "items": {"type": "string"}, "description": "also pruned, distilled"},
                "budget": {"type": ["string", "number"], "description": "time that each of those may train"},
            },
        },
        status=202,
    ),
    Api(method="GET", path="/api/jobs", endpoint=jobs, summary="All jobs"),
    Api(method="GET", path="/api/jobs/{job}", endpoint=job, summary="One job"),
    Api(method="POST", path="/api/jobs/{job}/cancel", endpoint=cancel, summary="Stop a job"),
    Api(
        method="GET",
        path="/api/lineage",
        endpoint=lineage,
        summary="Where something came from",
        query={"of": "a prediction, deployment, model, version or dataset"},
    ),
)
