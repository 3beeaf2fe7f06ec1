"""One inference request on a connection, from its headers to its answer, past ASGI."""

from typing import TYPE_CHECKING

from loopworks.core.errors import LoopworksError
from loopworks.server import guard
from loopworks.server.answer import Reply, refusal
from loopworks.server.asking import Asked, Asking
from loopworks.server.heads import Head
from loopworks.server.telling import REQUEST_ID, Note

if TYPE_CHECKING:
    from loopworks.server.connection import Connection

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Exchange:
    """Stands where Uvicorn has its cycle: it begins when its turn has come, and ends with an answer."""

    __slots__ = (
        "_asked",
        "_connection",
        "_is_whole",
        "_note",
        "_parts",
        "_reply",
        "_size",
        "disconnected",
        "head",
        "is_allowed",
        "is_turn",
        "keep_alive",
        "response_complete",
    )

    def __init__(self, connection: "Connection", head: Head, *, is_known: bool = False) -> None:
        """A request whose headers are there; ``is_known`` means that the same headers were let pass before."""
        self._connection = connection
        self.head = head
        self.keep_alive = head.keep_alive and not connection.is_leaving
        self._parts: list[bytes] = []
        self._size = 0
        self._is_whole = False
        self._reply: Reply | None = None
        self._asked: Asked | None = None
        self._note: Note | None = None
        self.is_turn = False
        self.response_complete = False
        self.disconnected = False
        self.is_allowed = False
        """Whether its headers alone gave no reason to refuse it."""
        headers, path = head.headers, head.path
        address = connection.client[0] if connection.client else ""
        if connection.telling.is_on or REQUEST_ID in headers:
            self._note = Note("POST", path, headers, address, connection.telling.id(headers))
        try:
            if is_known:
                who = connection.rules.admitted(head.authorization, "POST", path, address)
            else:
                who = connection.rules.allowed(headers, "POST", path, address)
                guard.check_length(headers, connection.limit)
            self.is_allowed = True
            if self._note is not None:
                self._note.who = who
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
        elif self.head.expects:
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
        self._answer(refusal(error, "POST", self.head.path))

    def leave(self) -> None:
        """The client has gone."""
        self.disconnected = True
        self._parts.clear()
        if not self.response_complete:
            self._tell()
        if self._asked is not None:
            self._asking.cancel(self._asked)

    def _ask(self) -> None:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._asked = Asked(self.head, body, self._answer)
        self._asking.ask(self._asked)

    @property
    def _asking(self) -> Asking:
        return self._connection.predicting if self.head.is_picture else self._connection.inferring

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
        connection, note, body = self._connection, self._note, reply.body
        more = b""
        if reply.headers:
            more = "".join([f"{name.lower()}: {text}\r\n" for name, text in reply.headers.items()]).encode("latin-1")
        if note is not None:
            if note.id:
                more += f"x-request-id: {note.id}\r\n".encode()
            note.status, note.size_bytes = reply.status, len(body)
            self._tell()
        self._asked = None
        if "Connection" in reply.headers:  # which says close, and nothing else
            self.keep_alive = False
        elif not self.keep_alive:
            more += b"connection: close\r\n"
        self.response_complete = True
        start = connection.start(reply.status, reply.kind)
        connection.transport.write(b"%b%bcontent-length: %d\r\n\r\n%b" % (start, more, len(body), body))
        if not self.keep_alive:
            connection.end()
        connection.on_response_complete()
