"""Checked access to the fields of JSON that came from outside: a wrong one is named, never guessed around."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from loopworks.core.errors import Invalid

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fields:
    """An object's fields by name and type; every getter raises ``Invalid`` with the path of the field."""

    body: Mapping[str, Any]
    where: str
    """What to call the object in an error, e.g. ``bundle.json variants[0]``; a blank at the end stands for a dot."""

    @classmethod
    def of(cls, body: Any, where: str) -> "Fields":
        """The fields of ``body``, which must be an object."""
        if not isinstance(body, Mapping):
            raise Invalid(where, "an object", body)
        return cls(body, where)

    def path(self, key: str) -> str:
        """What to call the field ``key`` in an error."""
        return self.where + ("" if self.where.endswith(" ") else ".") + key

    def any(self, key: str) -> Any:
        """The field as it is."""
        if key not in self.body:
            raise Invalid(self.path(key), "given", "nothing")
        return self.body[key]

    def text(self, key: str) -> str:
        """Text."""
        value: str = self._of(key, "text", is_text)
        return value

    def flag(self, key: str) -> bool:
        """``true`` or ``false``."""
        value: bool = self._of(key, "true or false", lambda x: isinstance(x, bool))
        return value

    def whole(self, key: str, low: int = 0) -> int:
        """A whole number, ``low`` or more."""
        value: int = self._of(key, f"a whole number, {low} or more", lambda x: type(x) is int and x >= low)
        return value

    def number(self, key: str) -> float:
        """A finite number."""
        value: float = self._of(key, "a finite number", _is_number)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(self._of(key, "a list of texts", lambda x: _is_list(x) and all(map(is_text, x))))

    def wholes(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers."""
        return tuple(self._of(key, "a list of whole numbers", lambda x: _is_list(x) and all(type(i) is int for i in x)))

    def object(self, key: str) -> dict[str, Any]:
        """An object, as it is."""
        return dict(self._of(key, "an object", lambda x: isinstance(x, Mapping)))

    def numbers(self, key: str) -> dict[str, float]:
        """An object whose values are finite numbers."""
        kind = "an object of finite numbers"
        return dict(self._of(key, kind, lambda x: isinstance(x, Mapping) and all(map(_is_number, x.values()))))

    def each(self, key: str, read: Callable[[Any, str], T]) -> tuple[T, ...]:
        """A list, each of its members through ``read(member, path)``."""
        members = self._of(key, "a list", _is_list)
        return tuple(read(member, f"{self.path(key)}[{i}]") for i, member in enumerate(members))

    def values(self, key: str, read: Callable[[Any, str], T]) -> dict[str, T]:
        """An object, each of its values through ``read(value, path)``."""
        return {name: read(value, f"{self.path(key)}.{name}") for name, value in self.object(key).items()}

    def one_of(self, key: str, choices: tuple[T, ...]) -> T:
        """One of ``choices``."""
        names = ", ".join(map(str, choices))
        choice: T = self._of(key, f"one of {names}", lambda x: isinstance(x, str) and x in choices)
        return choice

    def _of(self, key: str, expected: str, fits: Callable[[Any], bool]) -> Any:
        value = self.any(key)
        if not fits(value):
            raise Invalid(self.path(key), expected, value)
        return value


def is_text(value: Any) -> bool:
    """Whether it is text that can be stored: JSON and file systems can spell half characters, UTF-8 cannot."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
