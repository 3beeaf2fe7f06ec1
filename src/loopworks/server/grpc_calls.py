"""One call over gRPC: what is told of it, and how an error becomes a status."""

import contextlib
import logging
import math
import time
import uuid
from collections.abc import Callable
from typing import NoReturn
from urllib.parse import unquote

import grpc

from loopworks.core.errors import Busy, LoopworksError, Missing, Unsupported
from loopworks.server import answer
from loopworks.server.protos import status_pb2
from loopworks.server.telling import REQUEST_ID, Note, Telling

log = logging.getLogger(__name__)
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    405: grpc.StatusCode.UNIMPLEMENTED,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""HTTP status of an error -> gRPC's; any other is INTERNAL."""
MESSAGE = "/message"
"""What a message of a stream is called by in log and traces: the call's path and this."""
_RETRY = "type.googleapis.com/google.rpc.RetryInfo"

Count = Callable[[str, str, float], None]
"""Counts a call by its method and code, with its time in seconds."""


class Call:
    """A call from its metadata to its end."""

    __slots__ = ("_count", "_name", "_telling", "context", "note")

    def __init__(self, context: grpc.ServicerContext, service: str, name: str, telling: Telling, count: Count) -> None:
        """``telling`` hears of it and ``count`` counts it once it has ended; its id goes to the client at once."""
        self.context = context
        self._name, self._telling, self._count = name, telling, count
        given = context.invocation_metadata() or ()
        headers = {key: value for key, value in given if isinstance(value, str)}
        address = _address(context.peer())
        self.note = Note("GRPC", f"/{service}/{name}", headers, address, telling.id(headers), code="CANCELLED")
        if self.note.id:
            with contextlib.suppress(grpc.RpcError):  # the client has left: nobody reads it
                context.send_initial_metadata(((REQUEST_ID, self.note.id),))

    def message(self, id: str = "") -> Note:
        """The note of one message of this stream, by its own ``id`` where it has one."""
        mine = self.note
        name = self._telling.id({REQUEST_ID: id})
        return Note("GRPC", mine.path + MESSAGE, mine.headers, mine.address, name, mine.who, code="CANCELLED")

    def done(self) -> None:
        """The whole answer is on its way; where the client has left, nothing is."""
        if self.context.is_active():
            succeed(self.note)

    def fail(self, error: Exception) -> NoReturn:
        """End it with the error's status; never returns, as ``abort`` raises."""
        code, words = refuse(self.note, error, self._name)
        if isinstance(error, Busy):
            self.context.set_trailing_metadata(_later(error, code, words))
        self.context.abort(code, words)
        raise error

    def tell(self, note: Note | None = None) -> None:
        """The call has ended; or one of its messages has, whose ``note`` it is."""
        if self._telling.is_on:
            self._telling.tell(note or self.note)
        if note is None:
            self._count(self._name, self.note.code, (time.perf_counter_ns() - self.note.began_ns) / 1e9)


def succeed(note: Note) -> None:
    """It was answered."""
    note.status, note.code = 200, grpc.StatusCode.OK.name


def refuse(note: Note, error: Exception, name: str) -> tuple[grpc.StatusCode, str]:
    """Code and words of an error, which ``note`` takes over. What is none of ours is logged with an id."""
    if not isinstance(error, LoopworksError):
        mark = uuid.uuid4().hex[:8]
        log.error("request failed id=%s method=%s", mark, name, exc_info=error)
        note.status, note.code = 500, grpc.StatusCode.INTERNAL.name
        return grpc.StatusCode.INTERNAL, f"internal error {mark} (the server's log says more)"
    is_unknown = isinstance(error, Missing | Unsupported)
    code = grpc.StatusCode.UNIMPLEMENTED if is_unknown else CODES.get(error.status, grpc.StatusCode.INTERNAL)
    note.status, note.code = answer.status(note.path, error), code.name
    return code, error.message + (f" ({error.hint})" if error.hint else "")


def _later(error: Busy, code: grpc.StatusCode, words: str) -> tuple[tuple[str, str | bytes], ...]:
    """When to ask again: as HTTP says it, and as gRPC's error model does."""
    whole = math.ceil(max(error.retry_after_s, 1e-3) * 1e3)
    info = status_pb2.RetryInfo(retry_delay=status_pb2.Span(seconds=whole // 1000, nanos=whole % 1000 * 1_000_000))
    detail = status_pb2.Detail(type_url=_RETRY, value=info.SerializeToString())
    status = status_pb2.Status(code=code.value[0], message=words, details=[detail])
    after = str(max(1, math.ceil(error.retry_after_s)))
    return ("retry-after", after), ("grpc-status-details-bin", status.SerializeToString())


def _address(peer: str) -> str:
    """``ipv4:192.0.2.1:5000`` or ``ipv6:[::1]:5000`` without kind and port."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")
