"""Values as a query writes them: numbers, dates, times of day, true and false."""

import re
from datetime import UTC, datetime, timedelta
from typing import cast

from loopworks.core.query import ALWAYS, NEVER, And, Compare, Field, Node, Operator, Value

_TRUTHS = {"true": True, "yes": True, "t": True, "y": True, "false": False, "no": False, "f": False, "n": False}
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d(?:\.\d+)?))?")


def truth(value: Value) -> bool | None:
    """True or false, also in words; ``None`` where it is neither."""
    found = _TRUTHS.get(value.lower()) if isinstance(value, str) else value
    return found if isinstance(found, bool) else None


def clock(value: Value) -> float | None:
    """A time of day, in seconds since midnight; ``None`` where it is none."""
    found = _CLOCK.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds


class Day(datetime):
    """A date without a time: the whole day, in UTC."""

    def compare(self, found: Field, op: str) -> Node:
        """``<=`` includes the day, ``>`` begins after it, ``=`` is all of it."""
        begin = datetime(self.year, self.month, self.day, tzinfo=UTC)
        try:
            end: datetime | None = begin + timedelta(days=1)
        except OverflowError:
            end = None
        until = ALWAYS if end is None else Compare(found, "<", end)
        since = NEVER if end is None else Compare(found, ">=", end)
        if op == "=":
            return And((Compare(found, ">=", begin), until))
        if op in ("<", ">="):
            return Compare(found, cast("Operator", op), begin)
        return until if op == "<=" else since


def moment(text: str) -> datetime:
    """A date (a ``Day``) or a time, in UTC where it names no zone; ``ValueError`` where it is none."""
    if len(text) <= 10:
        day = datetime.strptime(text, "%Y-%m-%d")  # noqa: DTZ007 - a date has no zone; it is taken as UTC
        return Day(day.year, day.month, day.day, tzinfo=UTC)
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def number(text: str) -> int | float:
    """The number that a token writes."""
    plain = text.replace("_", "")
    if plain.isdecimal() and len(plain) <= 18:
        return int(plain)
    return float(plain)
