"""What a job looks like to people and programs: one frozen value."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from loopworks.core.errors import Invalid

Status = Literal["queued", "running", "done", "failed", "cancelled"]
STATUSES: tuple[Status, ...] = ("queued", "running", "done", "failed", "cancelled")
ENDED: frozenset[str] = frozenset({"done", "failed", "cancelled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One durable run of a step, as it was when it was read."""

    id: str
    step: str
    title: str
    params: Mapping[str, Any]
    status: Status
    share: float = 0.0
    """Share done, in 0..1."""
    text: str = ""
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    """The JSON shape of an error, see ``core.errors``; only where the job failed or was cancelled."""
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    attempts: int = 0
    """How often the step was started, over all retries and recoveries."""
    key: str | None = field(default=None)

    @property
    def is_ended(self) -> bool:
        """Whether nothing more will happen unless somebody retries the job."""
        return self.status in ENDED

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; times are ISO 8601 in UTC."""
        return {
            "id": self.id,
            "step": self.step,
            "title": self.title,
            "params": dict(self.params),
            "status": self.status,
            "share": self.share,
            "text": self.text,
            "result": self.result,
            "error": self.error,
            "created_at": self.created_at.isoformat(),
            "started_at": self.started_at.isoformat() if self.started_at else None,
            "ended_at": self.ended_at.isoformat() if self.ended_at else None,
            "attempts": self.attempts,
            "key": self.key,
        }


def plain(value: Any, what: str) -> str:
    """The JSON text of ``value``, which must be an object that comes back from JSON as it went in.

    Raises: Invalid: naming the first part that JSON does not have (a path, a NaN, a number as a key).
    """
    if not isinstance(value, Mapping):
        raise Invalid(what, "a JSON object", value)
    _check(value, what)
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(what, "plain JSON", str(error)) from None


def _check(value: Any, what: str, depth: int = 0) -> None:
    if depth > 100:
        raise Invalid(what, "nested less than 100 deep", "something deeper")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise Invalid(f"a key of {what}", "text", key)
            _check(inner, f"{what}.{key}", depth + 1)
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            _check(inner, f"{what}[{position}]", depth + 1)
    elif isinstance(value, float) and not -float("inf") < value < float("inf"):
        raise Invalid(what, "a finite number", value)
    elif isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise Invalid(what, "text that UTF-8 can hold", repr(value)) from None
    elif value is not None and not isinstance(value, bool | int | float):
        raise Invalid(what, "plain JSON (object, list, text, number, true, false or null)", value)
