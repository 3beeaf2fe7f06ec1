"""JSON out, errors out, JSON in: one place for each."""

import logging
import uuid
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Busy, Invalid, LoopworksError, MethodNotAllowed, NotFound

log = logging.getLogger(__name__)
RETRY_AFTER_S = 1


def json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer; arrays are written straight from their memory."""
    content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY, default=str)
    return Response(content, status, headers, media_type="application/json")


async def body(request: Request) -> dict[str, Any]:
    """The request's JSON object; an empty body is an empty object."""
    content = await request.body()
    if not content:
        return {}
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise Invalid("request body", "JSON", str(error)) from None
    if not isinstance(found, dict):
        raise Invalid("request body", "a JSON object", type(found).__name__)
    return found


async def failed(request: Request, error: Exception) -> Response:
    """Any error, as the route's protocol has it: ours with code and hint, the inference protocol's as one text."""
    if isinstance(error, HTTPException):
        error = _plain(request, error)
    if not isinstance(error, LoopworksError):
        mark = uuid.uuid4().hex[:8]
        log.error("request failed id=%s path=%s", mark, request.url.path, exc_info=error)
        found = {"code": "internal", "message": f"internal error {mark}", "hint": "the server's log says more"}
        return _shaped(request, found, 500)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if isinstance(error, Busy) else None
    status = 400 if _is_protocol(request) and error.status == 422 else error.status
    return _shaped(request, error.to_json()["error"], status, headers)


def refused(path: str, error: LoopworksError) -> Response:
    """An error that is found before there is a request object."""
    found = error.to_json()["error"]
    return json({"error": _sentence(found)} if path.startswith("/v2") else {"error": found}, error.status)


def _shaped(request: Request, found: dict[str, str], status: int, headers: dict[str, str] | None = None) -> Response:
    return json({"error": _sentence(found) if _is_protocol(request) else found}, status, headers)


def _sentence(found: dict[str, str]) -> str:
    return found["message"] + (f" ({found['hint']})" if found["hint"] else "")


def _is_protocol(request: Request) -> bool:
    return request.url.path.startswith("/v2")


def _plain(request: Request, error: HTTPException) -> LoopworksError:
    """Starlette's own errors: an unknown path or method, or a request that is broken."""
    what = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return NotFound("route", what, hint="see /openapi.json")
    if error.status_code == 405:
        return MethodNotAllowed(f"{request.url.path} does not answer to {request.method}", "see /openapi.json")
    return Invalid("request", "well-formed", error.detail)
