"""Answers over HTTP with the standard library's server."""

import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from typing import Any, ClassVar
from urllib.parse import urlsplit

from loopworks.core.errors import Invalid, LoopworksError, TooLarge
from loopworks_edge.answers import Answers, Asked, failed
from loopworks_edge.model import Edge

log = logging.getLogger(__name__)
MAX_BODY_BYTES = 64 * 1024 * 1024
STALL_S = 30.0
"""Longest pause of a client, in seconds."""
MOST_CLIENTS = 256
"""Connections at once; more are closed."""


class EdgeServer(ThreadingHTTPServer):
    """Serves one model; ``close`` ends it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, edge: Edge, *, host: str = "127.0.0.1", port: int = 0, **how: Any) -> None:
        """Load the model and listen.

        Args:
            edge: what to serve.
            host: address to bind; another than loopback needs ``token`` or ``is_open``.
            port: 0 takes a free one.
            how: as ``Answers`` takes it.
        Raises: Denied: other machines could ask without a token. Invalid: the address cannot be bound.
        """
        self.answers = Answers(edge, host=host, **how)
        self._clients = threading.BoundedSemaphore(MOST_CLIENTS)
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            self.answers.close()
            raise Invalid(f"{host}:{port}", "an address that is free", error.strerror or str(error)) from None

    @property
    def url(self) -> str:
        """Where it answers."""
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_address[1]}"

    def close(self) -> None:
        """Listen no more and free the model. Call it when ``serve_forever`` has ended, or never began."""
        self.server_close()
        self.answers.close()

    def process_request(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Give the connection a thread, unless there are too many."""
        if not self._clients.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """One connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._clients.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """A client that went away is no fault of ours; anything else is logged."""
        log.info("connection ended client=%s", client_address, exc_info=True)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: EdgeServer
    protocol_version: ClassVar[str] = "HTTP/1.1"  # type: ignore[misc]
    server_version = "loopworks-edge"
    sys_version = ""
    timeout: ClassVar[float] = STALL_S
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        """Health and metadata."""
        self._answer("GET")

    def do_POST(self) -> None:
        """Predictions."""
        self._answer("POST")

    def log_message(self, format: str, *args: Any) -> None:
        """To the log, not to the terminal."""
        log.debug(format, *args)

    def _answer(self, method: str) -> None:
        path = urlsplit(self.path).path
        try:
            body = self._read()
        except LoopworksError as error:
            reply = failed(path, error)
        else:
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = self.server.answers.answer(Asked(method, path, headers, body))
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(reply.body)

    def _read(self) -> bytes:
        """The whole body, within the limit; what cannot be read to its end ends the connection."""
        self.close_connection = True
        if self.headers.get("Transfer-Encoding"):
            raise Invalid("request body", "sent with Content-Length", "Transfer-Encoding", "send it whole")
        if self.headers.get("Content-Encoding", "identity") != "identity":
            raise Invalid("request body", "not compressed", self.headers["Content-Encoding"])
        text = self.headers.get("Content-Length", "0")
        if not (text.isascii() and text.isdecimal() and len(text) < 20):
            raise Invalid("Content-Length", "a whole number from 0", text)
        if (size := int(text)) > MAX_BODY_BYTES:
            raise TooLarge(f"request body must be at most {MAX_BODY_BYTES} bytes; got {size}")
        body = self.rfile.read(size)
        if len(body) < size:
            raise Invalid("request body", f"{size} bytes, as Content-Length says", len(body))
        self.close_connection = self.headers.get("Connection", "").lower() == "close"
        return body
