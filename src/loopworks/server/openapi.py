"""The OpenAPI document, written from the route table."""

import re
from collections.abc import Iterable
from typing import Any

from loopworks import __version__
from loopworks.server.route import Api

_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "oneOf": [
                {
                    "type": "object",
                    "required": ["code", "message", "hint"],
                    "properties": {name: {"type": "string"} for name in ("code", "message", "hint")},
                },
                {"type": "string", "description": "on /v2 routes, as the inference protocol has it"},
            ]
        }
    },
}


def describe(routes: Iterable[Api]) -> dict[str, Any]:
    """An OpenAPI 3.1 document of ``routes``."""
    paths: dict[str, Any] = {}
    for api in routes:
        paths.setdefault(api.path, {})[api.method.lower()] = _operation(api)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Loopworks", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(api: Api) -> dict[str, Any]:
    names = re.findall(r"{(\w+)}", api.path)
    parameters = [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in names]
    parameters += [
        {"name": n, "in": "query", "description": text, "schema": {"type": "string"}} for n, text in api.query.items()
    ]
    found: dict[str, Any] = {
        "summary": api.summary,
        "operationId": _operation_id(api),
        "parameters": parameters,
        "responses": {
            str(api.status): {"description": "done", "content": {api.answer: {"schema": dict(api.returns)}}},
            "default": {
                "description": "refused or failed",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    if api.body is not None:
        found["requestBody"] = {"content": {api.media: {"schema": dict(api.body)}}}
    return found


def _operation_id(api: Api) -> str:
    words = re.sub(r"[^a-z0-9]+", "_", api.path.lower()).strip("_") or "page"
    return f"{api.method.lower()}_{words}"
