"""One route: what it answers to, what it does, and the words that the OpenAPI document has for it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

Endpoint = Callable[[Request], Response] | Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """A route with its documentation; plain functions run in a thread, so they may wait for the database."""

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    query: Mapping[str, str] = field(default_factory=dict)
    """Query parameter -> what it is."""
    body: Mapping[str, Any] | None = None
    """JSON schema of the request body, or ``None`` where there is none."""
    media: str = "application/json"
    """Type of the request body."""
    answer: str = "application/json"
    """Type of the response."""
    returns: Mapping[str, Any] = field(default_factory=dict)
    """JSON schema of the response; anything where it is empty."""
    status: int = 200


def text_schema(**properties: str) -> dict[str, Any]:
    """JSON schema of an object of texts: name -> what it is; a name that ends in ``_`` may be left out."""
    return {
        "type": "object",
        "properties": {name.rstrip("_"): {"type": "string", "description": text} for name, text in properties.items()},
        "required": [name for name in properties if not name.endswith("_")],
    }
