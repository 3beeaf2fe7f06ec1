"""Parameters from outside (command line, HTTP, YAML) into a plug-in, and what a form must know to ask for them."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from loopworks.core.errors import Invalid

T = TypeVar("T")


def build(kind: type[T], params: Mapping[str, Any], name: str = "") -> T:
    """A plug-in from its parameters, with types and ranges checked before any work begins.

    Args:
        kind: a dataclass whose fields are the parameters.
        params: field name -> value; text is read as a number where the field is one.
        name: the plug-in's name in the registry, for the error.
    Raises: Invalid: naming the parameter, what it must be and what it is.
    """
    prefix = f"{name}." if name else ""
    known = [field.name for field in dataclasses.fields(cast(Any, kind)) if field.init]
    for key in params:
        if key not in known:  # whatever the plug-in's own pydantic configuration says of extra fields
            hint = f"known: {', '.join(sorted(known))}" if known else f"{name or kind.__name__} has no parameters"
            raise Invalid(f"{prefix}{key}", "a known parameter", key, hint)
    try:
        return TypeAdapter(kind).validate_python(dict(params))
    except ValidationError as error:
        raise refused(error, prefix) from None


def schema(kind: type[Any]) -> dict[str, Any]:
    """The JSON schema of a plug-in's parameters: name, type, range, default and text of each, also of inherited ones.

    pydantic reads the texts under the fields of the class itself alone.
    """
    found: dict[str, Any] = TypeAdapter(kind).json_schema()
    for base in kind.__mro__[1:]:
        if not dataclasses.is_dataclass(base):
            continue
        for name, inherited in TypeAdapter(base).json_schema().get("properties", {}).items():
            if "description" in inherited:
                found["properties"][name].setdefault("description", inherited["description"])
    return found


def refused(error: ValidationError, prefix: str = "") -> Invalid:
    """A pydantic error's first complaint in our sentence form; ``prefix`` goes before the field's name."""
    first = error.errors(include_url=False)[0]
    where = prefix + ".".join(str(part) for part in first["loc"])
    if first["type"] in ("missing", "missing_keyword_only_argument"):
        return Invalid(where, "given", "nothing")
    return Invalid(where, expectation(first["msg"]), first["input"])


def expectation(message: str) -> str:
    """What pydantic's ``message`` asks for, fit to follow "must be"."""
    text = message[:1].lower() + message[1:]
    for start in ("input should be ", "value should be ", "value error, "):
        text = text.removeprefix(start)
    return text
