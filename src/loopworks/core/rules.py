"""Reading the rule of a model: one class per medium, told by ``kind``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from loopworks.core.contracts import Rule
from loopworks.core.errors import Invalid
from loopworks.core.fields import Fields
from loopworks.core.text import TextRule, TokenRule
from loopworks.core.values import ImageRule

_READERS: dict[str, Callable[[Any, str], Rule]] = {
    "image": ImageRule.from_json,
    "text": TextRule.from_json,
    "tokens": TokenRule.from_json,
}


def read(body: Any, where: str = "preprocessing") -> Rule:
    """The rule that its ``to_json`` wrote.

    Raises: Invalid: of no known kind, or not as that kind is written.
    """
    fields = Fields.of(body, where)
    kind = fields.body.get("kind")
    if not isinstance(kind, str) or kind not in _READERS:
        raise Invalid(fields.path("kind"), ", ".join(_READERS), kind if kind is not None else "nothing")
    return _READERS[kind](body, where)


def opened(rule: Rule, folder: Path) -> Rule:
    """The rule, able to encode: a rule that needs a file of its bundle is told where the bundle lies."""
    return rule.opened(folder) if isinstance(rule, TokenRule) else rule
