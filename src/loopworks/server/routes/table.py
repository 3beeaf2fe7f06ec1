"""Rows of tabular datasets over HTTP: the same rows as ``Dataset.table`` and the command line's ``--json``."""

from functools import partial
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
    from loopworks.data.tables.table import Table

_TABLE = "/api/datasets/{dataset}/table"
_LARGEST = 100_000


def _name(request: Request) -> str:
    found: str = request.path_params["dataset"]
    return found


def _table(request: Request) -> "Table":
    serving: Serving = request.app.state.serving
    return serving.space.dataset(_name(request)).table


def schema(request: Request) -> Response:
    """Columns with their types."""
    return answer.json({"dataset": _name(request), **_table(request).schema.to_json()})


def profile(request: Request) -> Response:
    """The table in figures."""
    found = _table(request).profile()
    if request.query_params.get("report") == "true":
        return answer.page(found.to_html())
    return answer.json(found.to_json())


def rows(request: Request) -> Response:
    """Rows, a page at a time."""
    asked = request.query_params
    found = _table(request).page(
        query=asked.get("query", ""),
        sort=asked.get("sort", ""),
        descending=asked.get("descending", "false") == "true",
        split=asked.get("split") or None,
        columns=asked.getlist("column") or None,
        limit=_whole(request, "limit", 20),
        offset=_whole(request, "offset", 0),
    )
    return answer.json({"dataset": _name(request), **found.to_json()})


def states(request: Request) -> Response:
    """What was done to a table, newest first."""
    found = [state.to_json() for state in _table(request).states()]
    return answer.json({"dataset": _name(request), "states": found})


async def add(request: Request) -> Response:
    """Add the rows of files that lie on the server's disk."""
    body = await answer.body(request)
    table = await run_in_threadpool(_table, request)
    paths = body.get("paths")
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
        raise Invalid("paths", "a list of paths on the server", paths)
    header = body.get("header")
    if header is not None and not isinstance(header, bool):
        raise Invalid("header", "true or false", header)
    texts: dict[str, Any] = {name: _text(body, name) or "" for name in ("delimiter", "quote", "encoding", "author")}
    report = await run_in_threadpool(partial(table.add, paths, header=header, **texts))
    return answer.json({"dataset": _name(request), **report.to_json()})


async def choose(request: Request) -> Response:
    """Choose target, id and time columns, and types."""
    body = await answer.body(request)
    table = await run_in_threadpool(_table, request)
    types = body.get("types", {})
    if not isinstance(types, dict) or not all(isinstance(kind, str) for kind in types.values()):
        raise Invalid("types", "an object of column to type", types)
    chosen = {name: _text(body, name) for name in ("target", "id", "time")}
    found = await run_in_threadpool(table.choose, types=types, author=_text(body, "author") or "", **chosen)
    return answer.json({"dataset": _name(request), **found.to_json()})


async def split(request: Request) -> Response:
    """Give rows without a split one."""
    body = await answer.body(request)
    table = await run_in_threadpool(_table, request)
    shares = {name: _number(body, name, default) for name, default in (("test", 0.2), ("val", 0.1))}
    texts = {name: _text(body, name) or "" for name in ("by", "time", "author")}
    seed = body.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 32:
        raise Invalid("seed", "a whole number in 0..4294967295", seed)
    given: dict[str, Any] = {**shares, **texts, "seed": seed}
    counts = await run_in_threadpool(partial(table.split, **given))
    return answer.json({"dataset": _name(request), "splits": counts})


async def freeze(request: Request) -> Response:
    """Freeze the rows as a version."""
    body = await answer.body(request)
    table = await run_in_threadpool(_table, request)
    said = _text(body, "message") or "", _text(body, "author") or ""
    version = await run_in_threadpool(table.freeze, said[0], author=said[1])
    return answer.json(version.to_json(), 201)


def diff(request: Request) -> Response:
    """What changed between two versions."""
    asked = request.query_params
    found = _table(request).diff(asked.get("old", ""), asked.get("new", ""))
    return answer.json({"dataset": _name(request), "diff": found.to_json()})


async def delete(request: Request) -> Response:
    """Delete rows."""
    body = await answer.body(request)
    table = await run_in_threadpool(_table, request)
    ids = body.get("ids")
    if not isinstance(ids, list) or not ids or not all(isinstance(one, str) for one in ids):
        raise Invalid("ids", "a list of row ids", ids)
    count = await run_in_threadpool(table.delete, ids, author=_text(body, "author") or "")
    left = await run_in_threadpool(lambda: table.rows)
    return answer.json({"dataset": _name(request), "deleted": count, "rows": left})


async def undo(request: Request) -> Response:
    """Take the last change back."""
    body = await answer.body(request)
    table = await run_in_threadpool(_table, request)
    what = await run_in_threadpool(table.undo, author=_text(body, "author") or "")
    left = await run_in_threadpool(lambda: table.rows)
    return answer.json({"dataset": _name(request), "undone": what, "rows": left})


async def export(request: Request) -> Response:
    """Write the rows to a new file on the server's disk."""
    body = await answer.body(request)
    table = await run_in_threadpool(_table, request)
    path = _text(body, "path")
    if not path:
        raise Invalid("path", "a path on the server", path)
    version, part = _text(body, "version") or "", _text(body, "split") or None
    count = await run_in_threadpool(table.export, path, version=version, split=part)
    return answer.json({"dataset": _name(request), "path": path, "rows": count})


def _text(body: dict[str, Any], name: str) -> str | None:
    found = body.get(name)
    if found is not None and not isinstance(found, str):
        raise Invalid(name, "text", type(found).__name__)
    return found


def _number(body: dict[str, Any], name: str, default: float) -> float:
    found = body.get(name, default)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise Invalid(name, "a number in 0..1", found)
    return float(found)


def _whole(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 8 and int(text) <= _LARGEST):
        raise Invalid(name, f"a whole number in 0..{_LARGEST}", text)
    return int(text)


_TYPES = {"types": {"type": "object", "additionalProperties": {"type": "string"}}}
_PATHS = {"paths": {"type": "array", "items": {"type": "string"}}, "header": {"type": "boolean"}}
_SHARES = {"test": {"type": "number"}, "val": {"type": "number"}, "seed": {"type": "integer"}}
_IDS = {"ids": {"type": "array", "items": {"type": "string"}}}


def _body(more: dict[str, Any], *needed: str, **texts: str) -> dict[str, Any]:
    made = text_schema(**texts)
    return {**made, "properties": {**made["properties"], **more}, "required": list(needed)}


ROUTES = (
    Api(method="GET", path=f"{_TABLE}/states", endpoint=states, summary="What was done to a table"),
    Api(method="GET", path=f"{_TABLE}/schema", endpoint=schema, summary="Columns of a table"),
    Api(
        method="GET",
        path=f"{_TABLE}/profile",
        endpoint=profile,
        summary="A table in figures, with warnings and leaks",
        query={"report": "true: a page with plots"},
    ),
    Api(
        method="GET",
        path=f"{_TABLE}/rows",
        endpoint=rows,
        summary="Rows of a table",
        query={
            "query": "only rows that fulfil it, e.g. age > 30 and city = 'Oslo'",
            "sort": "column",
            "descending": "true or false",
            "split": "train, val or test",
            "column": "only these; may come again",
            "limit": "rows, 1..10000",
            "offset": "rows before them",
        },
    ),
    Api(
        method="POST",
        path=f"{_TABLE}/add",
        endpoint=nearby(add),
        summary="Add the rows of files on the server's disk",
        body=_body(_PATHS, "paths", delimiter_="between cells", quote_="around cells", encoding_="of text"),
    ),
    Api(
        method="POST",
        path=f"{_TABLE}/choose",
        endpoint=choose,
        summary="Choose target, id, time and types",
        body=_body(_TYPES, target_="column", id_="column", time_="column"),
    ),
    Api(
        method="POST",
        path=f"{_TABLE}/split",
        endpoint=split,
        summary="Split the rows",
        body=_body(_SHARES, by_="column", time_="column"),
    ),
    Api(
        method="POST",
        path=f"{_TABLE}/freeze",
        endpoint=freeze,
        summary="Freeze a version of a table",
        body=text_schema(message_="what this version is", author_="who froze it"),
        status=201,
    ),
    Api(
        method="GET",
        path=f"{_TABLE}/diff",
        endpoint=diff,
        summary="What changed between two versions of a table",
        query={"old": "version id, or its start", "new": "version id, or its start"},
    ),
    Api(
        method="POST",
        path=f"{_TABLE}/delete",
        endpoint=delete,
        summary="Delete rows",
        body=_body(_IDS, "ids", author_="who does it"),
    ),
    Api(
        method="POST",
        path=f"{_TABLE}/undo",
        endpoint=undo,
        summary="Take the last change of a table back",
        body=text_schema(author_="who does it"),
    ),
    Api(
        method="POST",
        path=f"{_TABLE}/export",
        endpoint=nearby(export),
        summary="Write the rows to a file on the server's disk",
        body=text_schema(path="new file", version_="version id, or its start", split_="train, val or test"),
    ),
)
