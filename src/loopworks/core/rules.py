"""Reading the rule of a model: one class per medium, told by ``kind``."""

import importlib
from typing import TYPE_CHECKING, Any

from loopworks.core.errors import Invalid
from loopworks.core.fields import Fields

if TYPE_CHECKING:
    from loopworks.core.contracts import Rule

_KINDS = {
    "image": ("values", "ImageRule"),
    "text": ("text", "TextRule"),
    "tokens": ("text", "TokenRule"),
    "row": ("row", "RowRule"),
}
"""Kind -> module of ``core`` and class; imported where it is met, so that a bundle of images needs no more."""


def read(body: Any, where: str = "preprocessing") -> "Rule":
    """The rule that its ``to_json`` wrote.

    Raises: Invalid: of no known kind, or not as that kind is written.
    """
    fields = Fields.of(body, where)
    kind = fields.body.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise Invalid(fields.path("kind"), ", ".join(_KINDS), kind if kind is not None else "nothing")
    module, name = _KINDS[kind]
    found: Rule = getattr(importlib.import_module(f"loopworks.core.{module}"), name).from_json(body, where)
    return found
