"""The one tree of errors: a code, an HTTP status, an exit code and one sentence form for all faces.

The sentence is: *what* must be *expected*; got *value*. A hint says what exists or what to run next.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar


class LoopworksError(Exception):
    """Base of everything that Loopworks raises on purpose; subclasses set ``code``, ``status``, ``exit_code``."""

    code: ClassVar[str] = "failed"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        """Keep ``message`` (one sentence) and ``hint`` (what to do next; may be empty)."""
        self.message = _printable(message)
        self.hint = _printable(hint)
        super().__init__(self.message)

    def to_json(self) -> dict[str, dict[str, str]]:
        """The one JSON shape of an error, the same from the CLI, the server and a job."""
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint}}

    def __reduce__(self) -> tuple[Any, ...]:
        """Cross process borders unchanged, whatever the subclass's constructor takes."""
        return _rebuild, (type(self), self.message, self.hint)


def _rebuild(kind: type[LoopworksError], message: str, hint: str) -> LoopworksError:
    error = kind.__new__(kind)
    LoopworksError.__init__(error, message, hint)
    return error


class Invalid(LoopworksError):
    """A value, file or argument from outside is not what it must be."""

    code, status, exit_code = "invalid", 422, 2

    def __init__(self, what: str, expected: str, got: object, hint: str = "") -> None:
        """Say that ``what`` must be ``expected`` and what was found instead."""
        super().__init__(f"{what} must be {expected}; got {_short(got)}", hint)


class NotFound(LoopworksError):
    """A named thing does not exist; the hint lists the names that do."""

    code, status, exit_code = "not_found", 404, 2

    def __init__(self, kind: str, name: object, known: Iterable[object] = (), hint: str = "") -> None:
        """Say that no ``kind`` is called ``name`` and which names exist."""
        names = [str(k) for k in known]
        more = f", and {len(names) - 12} more" if len(names) > 12 else ""
        super().__init__(f"{kind} {_short(repr(name))} does not exist", hint or _known(names[:12], more, kind))


def _known(names: list[str], more: str, kind: str) -> str:
    return f"known: {', '.join(names)}{more}" if names else f"there is no {kind} yet"


class Missing(LoopworksError):
    """An optional package is not installed; the hint is the line that installs it."""

    code, status, exit_code = "missing", 501, 1

    def __init__(self, package: str, extra: str, why: str = "") -> None:
        """Name the ``package``, the ``extra`` of Loopworks that brings it, and what needs it."""
        need = f" ({why})" if why else ""
        super().__init__(
            f"package {package!r} must be installed{need}; got no such package",
            f"pip install 'loopworks[{extra}]'",
        )


class Unsupported(LoopworksError):
    """The request is well-formed and asks for something that Loopworks does not have."""

    code, status, exit_code = "unsupported", 501, 2


class Conflict(LoopworksError):
    """The thing exists already, or was changed by somebody else in between."""

    code, status, exit_code = "conflict", 409, 2


class Busy(LoopworksError):
    """Somebody else holds what is needed (a locked database, a full queue); trying again later may work."""

    code, status, exit_code = "busy", 503, 1
    retry_after_s: float = 1.0
    """When trying again makes sense, in seconds."""


class TooMany(Busy):
    """More is asked at once than this caller or model is allowed; fewer requests at a time work."""

    code, status, exit_code = "too_many", 429, 1


class TimedOut(LoopworksError):
    """A request waited longer than its deadline."""

    code, status, exit_code = "timed_out", 504, 1


class TooLarge(LoopworksError):
    """A request body is larger than the server reads."""

    code, status, exit_code = "too_large", 413, 2


class Denied(LoopworksError):
    """The caller may not do this."""

    code, status, exit_code = "denied", 403, 1


class Unauthorized(LoopworksError):
    """The request carries no token, or a wrong one."""

    code, status, exit_code = "unauthorized", 401, 1


class MethodNotAllowed(LoopworksError):
    """The route exists, and does not answer to this HTTP method."""

    code, status, exit_code = "method_not_allowed", 405, 2


class TooNew(LoopworksError):
    """The workspace or bundle was written by a newer Loopworks."""

    code, status, exit_code = "too_new", 409, 1


class NoSpace(LoopworksError):
    """The disk or object store is full; nothing half written was kept."""

    code, status, exit_code = "no_space", 507, 1


class Damaged(LoopworksError):
    """Stored bytes are not what was written (a checksum differs, a row points to nothing)."""

    code, status, exit_code = "damaged", 500, 1


class Unreachable(LoopworksError):
    """A service or the network did not answer."""

    code, status, exit_code = "unreachable", 502, 1


class Cancelled(LoopworksError):
    """The user asked to stop."""

    code, status, exit_code = "cancelled", 499, 130

    def __init__(self, message: str = "stopped by the user", hint: str = "") -> None:
        """Keep who or what stopped the work."""
        super().__init__(message, hint)


class Failed(LoopworksError):
    """A step failed for the reason given."""

    code, status, exit_code = "failed", 500, 1


def from_json(body: Any) -> LoopworksError:
    """The error that ``to_json`` wrote, as the same class where it is known; of another shape, ``Failed`` with it."""
    error = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        return Failed(_short(body if error is None else error))
    kind = error_classes().get(str(error.get("code")), Failed)
    return _rebuild(kind, str(error.get("message", "")), str(error.get("hint", "")))


def error_classes() -> dict[str, type[LoopworksError]]:
    """Every error class by its code, for the reference page and the tests of the faces."""
    found: dict[str, type[LoopworksError]] = {}
    for kind in _subclasses(LoopworksError):
        found.setdefault(kind.code, kind)  # a subclass that keeps its parent's code never stands in for it
    return found


def _subclasses(kind: type[LoopworksError]) -> list[type[LoopworksError]]:
    found = list(kind.__subclasses__())
    return found + [deeper for sub in found for deeper in _subclasses(sub)]


def _printable(text: str) -> str:
    """``text`` with control characters written out: file names and labels come from outside, terminals obey them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _short(value: object, limit: int = 200) -> str:
    text = " ".join((value if isinstance(value, str) else repr(value)).split("\n"))
    return text if len(text) <= limit else text[: limit - 1] + "…"
