"""How a connection ends: so that its client sees every answer that it was given, whatever it sent."""

import logging
from asyncio import TimerHandle
from typing import Any, Literal

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from loopworks.core.errors import Invalid, LoopworksError, TooLarge
from loopworks.server.exchange import Exchange

log = logging.getLogger(__name__)
HEAD_BYTES = 1 << 16
"""Longest line and headers of a request together, and most bytes between two parts of a body."""
LINGER_S = 30.0
"""How long a client that is still sending is listened to after its answer."""
DRAIN_S = 0.5
"""How long a server that stops waits for a request that may be on its way on an idle connection."""
WRITE_S = 60.0
"""How long a client may take nothing of an answer."""


class Parting(HttpToolsProtocol):
    """Uvicorn's connection, with an end in order; and clients that want another protocol are answered in this one."""

    stage: Literal["", "head", "body", "upgrade"] = ""
    """Where the parser is in a request; empty between two."""
    loose = 0
    """Bytes since a request began or a part of its body came."""
    is_ended = False
    """Whether nothing more is taken from the client; what came before is still answered."""
    is_leaving = False
    """Whether the server stops: the next answer is the last one."""
    _later: TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Parse; the callbacks are called by it."""
        if self.is_ended:
            return
        self.loose += len(data)
        try:
            while data:
                data = self._parsed(data)
        except httptools.HttpParserError as error:
            log.debug("no HTTP from address=%s: %s", self.client, error)
            self.give_up(400, Invalid("request", "well-formed HTTP/1.1", str(error)))
            return
        if self.stage and self.loose > HEAD_BYTES:
            self.refuse_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self.is_ended = True
        if self._later is not None:
            self._later.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Answer what has come, or one request that is on its way, and end: its client cannot know that we stop."""
        self.is_leaving = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False  # the last one that came
        elif self.is_ended:
            self.transport.close()
        else:
            self._later = self.loop.call_later(DRAIN_S, self._leave)

    def refuse_head(self) -> None:
        """Too much that is no body: headers, trailers, or what chunks are labelled with."""
        self.give_up(431, TooLarge(f"request line and headers must be at most {HEAD_BYTES} bytes; got more"))

    def give_up(self, status: int, error: LoopworksError) -> None:
        """What comes is no request that can be taken: answer what came before it, say so where it is due, and end."""
        cycle: Any = self.cycle
        if self.is_ended or self.transport.is_closing():
            return
        self.is_ended = True
        if cycle is None or cycle.response_complete:
            self._tell(status, error)
        elif self.stage != "body":
            cycle.keep_alive = False  # the last answer; then the end
        elif isinstance(cycle, Exchange):
            cycle.keep_alive = False
            cycle.refuse(error)
        elif cycle.response_started or self.pipeline:
            self.transport.close()
        else:
            cycle.disconnected = True
            cycle.message_event.set()
            self._tell(status, error)

    def end(self) -> None:
        """Close once the client has its answers. One that is still sending would lose them if we closed at once: its
        bytes are thrown away until it has seen that we are done."""
        self.is_ended = True
        for cycle, _ in self.pipeline:
            if isinstance(cycle, Exchange):
                cycle.leave()
        self.pipeline.clear()
        if self.transport.is_closing():
            return
        if self.stage:
            self.flow.resume_reading()
            self.transport.write_eof()
            self._later = self.loop.call_later(LINGER_S, self.transport.abort)
            return
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._later = self.loop.call_later(WRITE_S, self.transport.abort)

    def _leave(self) -> None:
        if not self.stage and (self.cycle is None or self.cycle.response_complete):
            self.end()

    # ---- what Uvicorn's cycles ask of a transport

    def write(self, data: bytes) -> None:
        """Write a part of an answer."""
        self.transport.write(data)

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self.transport.is_closing()

    def close(self) -> None:
        """The answer was the last one."""
        self.end()

    # ----

    def _parsed(self, data: bytes) -> bytes:
        """Parse; returns what is to be parsed next, where a client asks for an upgrade.

        The parser stops at such a request, as if no HTTP came after it. A server may go on as if nobody had asked
        (RFC 9110, 7.8), and must: Java's client asks for HTTP/2 with its first request, whatever that is.
        """
        try:
            self.parser.feed_data(data)
            return b""
        except httptools.HttpParserUpgrade as found:
            rest = data[found.args[0] :]
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            raise httptools.HttpParserError("CONNECT, which is for proxies")
        told = b"".join([b"%b: %b\r\n" % one for one in self.headers if one[0] != b"upgrade"])
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as Uvicorn does
        return b"%b %b HTTP/%b\r\n%b\r\n%b" % (method, self.url, version, told, rest)

    def _tell(self, status: int, error: LoopworksError) -> None:
        body = orjson.dumps(error.to_json())
        common = b"".join([b"%b: %b\r\n" % one for one in self.server_state.default_headers])
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + common + head + body)
        self.stage = self.stage or "head"  # whatever comes now is not waited for, and not answered
        self.end()
