"""Splits over HTTP: the same call as ``Dataset.split``, the same figures as ``loopworks data split --json``."""

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Invalid
from loopworks.server import answer
from loopworks.server.route import Api
from loopworks.server.serving import Serving

_PATH = "/api/datasets/{dataset}/split"


async def split(request: Request) -> Response:
    """Give labelled items without a split one."""
    body = await answer.body(request)
    named = {
        "test": _share(body, "test", 0.2),
        "val": _share(body, "val", 0.1),
        "by": _text(body, "by"),
        "time": _text(body, "time"),
        "seed": _seed(body),
        "author": _text(body, "author") or "",
    }
    return answer.json(await run_in_threadpool(_split, request, named))


def figures(request: Request) -> Response:
    """How a dataset is split now."""
    return answer.json(_split(request, None))


def _split(request: Request, named: dict[str, Any] | None) -> dict[str, Any]:
    serving: Serving = request.app.state.serving
    target = serving.space.dataset(request.path_params["dataset"])
    if named is not None:
        target.split(**named)
    return {"dataset": target.name, **target.split_figures().to_json()}


def _share(body: dict[str, Any], name: str, default: float) -> float:
    found = body.get(name, default)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise Invalid(name, "a share in 0..1", found)
    return float(found)


def _text(body: dict[str, Any], name: str) -> str | None:
    found = body.get(name)
    if found is not None and not isinstance(found, str):
        raise Invalid(name, "text", type(found).__name__)
    return found


def _seed(body: dict[str, Any]) -> int:
    found = body.get("seed", 0)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 1 << 32:
        raise Invalid("seed", "a whole number in 0..4294967295", found)
    return found


_BODY = {
    "type": "object",
    "properties": {
        "test": {"type": "number", "description": "share of the test set, 0..1; default 0.2"},
        "val": {"type": "number", "description": "share of the validation set, 0..1; default 0.1"},
        "by": {"type": "string", "description": "attribute or folder: equal values stay in one split"},
        "time": {"type": "string", "description": "attribute that is a time, or added_at: the newest are the test set"},
        "seed": {"type": "integer", "description": "another seed, another split"},
        "author": {"type": "string", "description": "who splits"},
    },
}
ROUTES = (
    Api(method="POST", path=_PATH, endpoint=split, summary="Split a dataset", body=_BODY),
    Api(method="GET", path=_PATH, endpoint=figures, summary="How a dataset is split"),
)
