"""JSON out, errors out, JSON in: one place for each."""

import logging
import math
import uuid
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from loopworks.core.errors import Busy, Invalid, LoopworksError, MethodNotAllowed, NotFound, TimedOut, TooLarge

log = logging.getLogger(__name__)


def json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer; arrays are written straight from their memory."""
    return Response(dumps(body), status, headers, media_type="application/json")


def dumps(body: Any) -> bytes:
    """The text of a JSON answer."""
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY, default=str)


def page(text: str) -> Response:
    """An HTML page that a dataset's content is written on: it may run and load nothing."""
    headers = {
        "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(text, media_type="text/html; charset=utf-8", headers=headers)


async def body(request: Request) -> dict[str, Any]:
    """The request's JSON object; an empty body is an empty object."""
    content = await request.body()
    if not content:
        return {}
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise Invalid("request body", "JSON in UTF-8", str(error)) from None
    if not isinstance(found, dict):
        raise Invalid("request body", "a JSON object", type(found).__name__)
    return found


@dataclass(slots=True)
class Reply:
    """An answer that is whole, for whoever writes it."""

    status: int
    headers: dict[str, str]
    body: bytes
    kind: str = "application/json"


def refusal(error: Exception, method: str, path: str) -> Reply:
    """Any error, as the route's protocol has it: ours with code and hint, the inference protocol's as one text."""
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, HTTPException):
        error = _plain(f"{method} {path}", error)
    if not isinstance(error, LoopworksError):
        mark = uuid.uuid4().hex[:8]
        log.error("request failed id=%s path=%s", mark, path, exc_info=error)
        found = {"code": "internal", "message": f"internal error {mark}", "hint": "the server's log says more"}
        return Reply(500, headers, _shaped(path, found))
    if isinstance(error, Busy):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, TooLarge | TimedOut):
        headers["Connection"] = "close"  # nobody reads the rest of the body
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Reply(_status(path, error), headers, _shaped(path, error.to_json()["error"]))


def failed(request: Request, error: Exception) -> Response:
    """``refusal``, as a response."""
    method: str = request.scope.get("method", "")
    if isinstance(error, HTTPException) and error.status_code == 405:
        error.headers = {"Allow": ", ".join(_methods(request))}
    found = refusal(error, method, request.scope["path"])  # not request.url, which a broken Host header breaks
    return Response(found.body, found.status, found.headers, media_type=found.kind)


async def handle(request: Request, error: Exception) -> Response:
    """``failed``, as Starlette's exception handlers are called."""
    return failed(request, error)


def _methods(request: Request) -> list[str]:
    """What the routes of the request's path take: there is one for each method."""
    routes = [one for one in request.app.routes if one.matches(request.scope)[0] is not Match.NONE]
    return sorted({method for one in routes for method in one.methods or ()})


def _status(path: str, error: LoopworksError) -> int:
    """Clients of the inference protocol know 400 for all that is wrong with a request."""
    return 400 if _is_protocol(path) and error.status in (409, 422) else error.status


def _shaped(path: str, found: dict[str, str]) -> bytes:
    return orjson.dumps({"error": _sentence(found) if _is_protocol(path) else found})


def _sentence(found: dict[str, str]) -> str:
    return found["message"] + (f" ({found['hint']})" if found["hint"] else "")


def _is_protocol(path: str) -> bool:
    return path == "/v2" or path.startswith("/v2/")


def _plain(what: str, error: HTTPException) -> LoopworksError:
    """Starlette's own errors: an unknown path or method, or a request that is broken."""
    if error.status_code == 404:
        return NotFound("route", what, hint="/openapi.json lists all routes")
    if error.status_code == 405:
        return MethodNotAllowed(f"route {what!r} must be asked with another method", "/openapi.json lists all routes")
    return Invalid("request", "well-formed", error.detail)
