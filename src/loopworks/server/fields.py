"""What a request may say: texts, flags, lists and numbers out of its JSON body and its query."""

from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from loopworks.core.errors import Invalid

if TYPE_CHECKING:
    from loopworks.data.stage import Dataset

Body = dict[str, Any]


def text(body: Body, name: str, default: str | None = None) -> str:
    """A text; ``Invalid`` where it is another thing, or missing without a default."""
    found = body.get(name, default)
    if not isinstance(found, str):
        raise Invalid(name, "text", "nothing" if found is None else found)
    return found


def flag(body: Body, name: str) -> bool:
    """True or false; false where it is missing."""
    found = body.get(name, False)
    if not isinstance(found, bool):
        raise Invalid(name, "true or false", found)
    return found


def names(body: Body, name: str) -> list[str]:
    """A list of texts; empty where it is missing."""
    found = body.get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise Invalid(name, "a list of text", found)
    return found


def mapping(body: Body, name: str) -> dict[str, Any]:
    """An object; empty where it is missing."""
    found = body.get(name, {})
    if not isinstance(found, dict):
        raise Invalid(name, "an object", found)
    return found


def seed(body: Body) -> int:
    """The seed of what is drawn at random; 0 where it is missing."""
    found = body.get("seed", 0)
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 1 << 32:
        raise Invalid("seed", "a whole number in 0..4294967295", found)
    return found


def whole(request: Request, name: str, default: int, least: int = 1, most: int = 1_000_000_000) -> int:
    """A whole number of the query."""
    found = request.query_params.get(name, str(default))
    if not (found.isascii() and found.isdecimal() and len(found) < 11 and least <= int(found) <= most):
        raise Invalid(name, f"a whole number in {least}..{most}", found)
    return int(found)


def items(target: "Dataset", body: Body) -> list[str]:
    """Ids of the items that a body means: by ``items`` (ids, their beginnings or names) or by a ``query``."""
    given, query = names(body, "items"), text(body, "query", "")
    if bool(given) == bool(query):
        raise Invalid("items", "a list of item ids, one or more, or a query beside it", given or "nothing")
    return [target.item(one).id for one in given] if given else list(target.ids(query))
