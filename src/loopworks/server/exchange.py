"""One inference request on a connection, from its headers to its answer, past ASGI."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from loopworks.core.errors import LoopworksError
from loopworks.server import guard
from loopworks.server.answer import Reply, refusal
from loopworks.server.inferring import Asked
from loopworks.server.telling import REQUEST_ID, Note

if TYPE_CHECKING:
    from loopworks.server.connection import Connection

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Exchange:
    """Stands where Uvicorn has its cycle: it begins when its turn has come, and ends with an answer."""

    __slots__ = (
        "_asked",
        "_connection",
        "_expects",
        "_is_whole",
        "_note",
        "_parts",
        "_reply",
        "_size",
        "disconnected",
        "headers",
        "is_turn",
        "keep_alive",
        "model",
        "path",
        "response_complete",
        "version",
    )

    def __init__(
        self,
        connection: "Connection",
        path: str,
        model: str,
        version: str,
        headers: Mapping[str, str],
        *,
        keep_alive: bool,
        expects: bool,
    ) -> None:
        """A request whose headers are there; ``expects`` means that its client waits for a sign to send the body."""
        self._connection = connection
        self.path, self.model, self.version = path, model, version
        self.headers = headers
        self.keep_alive = keep_alive and not connection.is_leaving
        self._expects = expects
        self._parts: list[bytes] = []
        self._size = 0
        self._is_whole = False
        self._reply: Reply | None = None
        self._asked: Asked | None = None
        self.is_turn = False
        self.response_complete = False
        self.disconnected = False
        address = connection.client[0] if connection.client else ""
        self._note: Note | None = None
        if connection.telling.is_on or REQUEST_ID in headers:
            self._note = Note("POST", path, headers, address, connection.telling.id(headers))
        try:
            who = connection.rules.allowed(headers, "POST", path, address)
            if self._note is not None:
                self._note.who = who
            guard.check_length(headers, connection.limit)
        except LoopworksError as error:
            self.refuse(error)

    @property
    def is_waiting(self) -> bool:
        """Whether it is the client's move."""
        return self.is_turn and not self._is_whole and not self.response_complete

    def begin(self) -> None:
        """All before it on this connection is answered."""
        self.is_turn = True
        if self._reply is not None:
            self._send(self._reply)
        elif self._is_whole:
            self._ask()
        elif self._expects:
            self._connection.transport.write(CONTINUE)

    def take(self, part: bytes) -> None:
        """A part of the body has come."""
        if self._reply is not None or self.response_complete:
            return
        self._parts.append(part)
        self._size += len(part)
        if self._size > self._connection.limit:
            self.refuse(guard.too_large(self._connection.limit, "more"))

    def end(self) -> None:
        """The body is whole."""
        self._is_whole = True
        if self.is_turn and self._reply is None and not self.response_complete:
            self._ask()

    def refuse(self, error: Exception) -> None:
        """Answer an error, in its turn; the rest of the body is let go."""
        self._parts.clear()
        self._answer(refusal(error, "POST", self.path))

    def leave(self) -> None:
        """The client has gone."""
        self.disconnected = True
        self._parts.clear()
        if not self.response_complete:
            self._tell()
        if self._asked is not None:
            self._connection.inferring.cancel(self._asked)

    def _ask(self) -> None:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._asked = Asked(self.model, self.version, self.path, self.headers, body, self._answer)
        self._connection.inferring.ask(self._asked)

    def _answer(self, reply: Reply) -> None:
        self._reply = reply
        if self.is_turn:
            self._send(reply)

    def _tell(self) -> None:
        note, self._note = self._note, None
        if note is not None and self._connection.telling.is_on:
            if self._asked is not None and self._asked.served is not None:
                note.model = f"{self._asked.served.name}/{self._asked.served.version}"
                note.parts_ns = self._asked.parts_ns
            self._connection.telling.tell(note)

    def _send(self, reply: Reply) -> None:
        if self.disconnected or self.response_complete or self._connection.transport.is_closing():
            return
        parts = [STATUS_LINE[reply.status]]
        for name, value in self._connection.server_state.default_headers:
            parts += (name, b": ", value, b"\r\n")
        for key, text in reply.headers.items():
            parts.append(f"{key.lower()}: {text}\r\n".encode("latin-1"))
        if self._note is not None:
            if self._note.id:
                parts.append(f"x-request-id: {self._note.id}\r\n".encode())
            self._note.status, self._note.size_bytes = reply.status, len(reply.body)
            self._tell()
        self._asked = None
        if "Connection" in reply.headers:  # which says close, and nothing else
            self.keep_alive = False
        elif not self.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(b"content-length: %d\r\ncontent-type: %b\r\n\r\n" % (len(reply.body), reply.kind.encode()))
        parts.append(reply.body)
        self.response_complete = True
        self._connection.transport.write(b"".join(parts))
        if not self.keep_alive:
            self._connection.end()
        self._connection.on_response_complete()
