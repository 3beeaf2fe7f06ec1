"""Answers over HTTP with the standard library's server: Open Inference Protocol v2 (REST) and plain predictions.

The engine behind it is the server's: requests that wait together are answered as one batch.
"""

import hmac
import logging
import threading
import time
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from loopworks.core.errors import (
    Denied,
    Invalid,
    LoopworksError,
    MethodNotAllowed,
    NotFound,
    TimedOut,
    TooLarge,
    Unauthorized,
    from_json,
)
from loopworks.core.values import Problem
from loopworks.infer import described, items, protocol, stage, wire
from loopworks.infer.engine import TIMEOUT_S, Engine, Served
from loopworks_edge import rows
from loopworks_edge.model import Edge

log = logging.getLogger(__name__)
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
MAX_BODY_BYTES = 64 * 1024 * 1024
STALL_S = 30.0
"""Longest pause of a client, in seconds."""
MOST_CLIENTS = 256
"""Connections at once; more are closed."""
EXTENSIONS = ("binary_tensor_data", "classification")
RAW = {"image": "image/", "text": "text/"}


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    body: bytes
    status: int = 200
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


class EdgeServer(ThreadingHTTPServer):
    """Serves one model; ``close`` ends it."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        edge: Edge,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = "",
        is_open: bool = False,
        variant: str = "",
        workers: int = 1,
    ) -> None:
        """Load the model and listen.

        Args:
            edge: what to serve.
            host: address to bind; another than loopback needs ``token`` or ``is_open``.
            port: 0 takes a free one.
            token: secret that clients must send as ``Authorization: Bearer ...``; empty asks for none.
            is_open: answer other machines without a token, behind a gateway that asks for one.
            variant: which variant answers; empty: the first.
            workers: threads that run the model.
        Raises: Denied: other machines could ask without a token. Invalid: the address cannot be bound.
        """
        self.is_local = host in LOOPBACK
        if not (self.is_local or token or is_open):
            raise Denied(
                f"a server at {host} must ask for a token; got none", "give --token, or --open behind a gateway"
            )
        self.edge = edge
        self.token = token
        self.engine = Engine(workers=workers)
        self._clients = threading.BoundedSemaphore(MOST_CLIENTS)
        try:
            facts = {"model": edge.manifest.model, "number": edge.manifest.number}
            name, version = edge.manifest.name, str(edge.manifest.revision or edge.manifest.number)
            self.engine.load(name, edge.bundle, variant=edge.variant(variant), version=version, facts=facts)
            try:
                super().__init__((host, port), Handler)
            except OSError as error:
                raise Invalid(f"{host}:{port}", "an address that is free", error.strerror or str(error)) from None
        except BaseException:
            self.engine.close()
            raise

    @property
    def url(self) -> str:
        """Where it answers."""
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_address[1]}"

    def close(self) -> None:
        """Listen no more and free the model. Call it when ``serve_forever`` has ended, or never began."""
        self.server_close()
        self.engine.close()

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

    # ---- routes

    def _answer(self, method: str) -> None:
        path = urlsplit(self.path).path
        try:
            body = self._read()
            self._check(path)
            reply = self._route(method, [unquote(part) for part in path.strip("/").split("/")], body)
        except LoopworksError as error:
            reply = self._failed(path, error)
        except Exception:  # the top of a request: whatever it is, the client gets one clear answer
            log.exception("request failed path=%s", path)
            reply = self._failed(path, from_json({"error": {"code": "failed", "message": "internal error"}}))
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(reply.body)

    def _route(self, method: str, parts: list[str], body: bytes) -> Reply:
        match method, parts:
            case "GET", ["v2", "health", "live"]:
                return _json({"live": True})
            case "GET", ["v2", "health", "ready"]:
                return _json({"ready": True})
            case "GET", ["v2"]:
                return _json(described.server(*EXTENSIONS))
            case "GET", ["v2", "models", name]:
                return _json(described.model(self.server.engine.model(name)))
            case "GET", ["v2", "models", name, "versions", version]:
                return _json(described.model(self.server.engine.model(name, version)))
            case "GET", ["v2", "models", name, "ready"]:
                return _json({"name": self.server.engine.model(name).name, "ready": True})
            case "GET", ["v2", "models", name, "versions", version, "ready"]:
                return _json({"name": self.server.engine.model(name, version).name, "ready": True})
            case "POST", ["v2", "models", name, "infer"]:
                return self._infer(self.server.engine.model(name), body)
            case "POST", ["v2", "models", name, "versions", version, "infer"]:
                return self._infer(self.server.engine.model(name, version), body)
            case "POST", ["predict", name]:
                return self._predict(self.server.engine.model(name), body)
            case _, ["v2", "models", *_, "infer"] | ["predict", _] | ["v2", *_]:
                raise MethodNotAllowed(f"route {self.path!r} must be asked with another method, or is none")
        raise NotFound("route", f"{method} {self.path}", hint="the README lists all routes")

    def _infer(self, served: Served, body: bytes) -> Reply:
        """Answer tensors with tensors."""
        asked = protocol.read(body, self._header_length(), served.bundle.inputs)
        names = [spec.name for spec in served.bundle.outputs]
        if (unknown := [one.name for one in asked.outputs if one.name not in names]) != []:
            raise Invalid("outputs", f"among {', '.join(names)}", ", ".join(unknown))
        found = _result(served, asked.inputs, min(asked.timeout_s or TIMEOUT_S, TIMEOUT_S))
        content, length = protocol.write(
            found.outputs,
            asked,
            served.bundle.outputs,
            model=served.name,
            version=served.version,
            classes=served.bundle.schema.classes,
        )
        if length is None:
            return Reply(content)
        return Reply(content, kind="application/octet-stream", headers={protocol.HEADER_LENGTH: str(length)})

    def _predict(self, served: Served, body: bytes) -> Reply:
        """Answer items: an image or text as the body, rows as CSV, or JSON with images in base64, texts or rows."""
        edge = self.server.edge
        began = time.perf_counter()
        asked, problems = self._items(edge.media, body)
        loaded, bad = items.load_each(asked, edge.media, edge.manifest.max_pixels)
        good, tensors, worse = (
            items.packed(edge.bundle.rule, loaded, edge.manifest.max_pixels) if loaded else ([], {}, [])
        )
        problems = [*problems, *bad, *worse]
        if not good:
            if not problems:
                raise Invalid("items", "at least one", "none")
            raise from_json({"error": {**problems[0].to_json(), "code": problems[0].error}})
        decoded = time.perf_counter()
        found = _result(served, tensors, TIMEOUT_S)
        answers = stage.answers(served, found.outputs, [one.size for one in good if one.size is not None])
        return _json({
            "deployment": served.name,
            "revision": edge.manifest.revision,
            "model": f"{edge.manifest.model}:{edge.manifest.number}",
            "variant": served.variant.name,
            "predictions": [edge.prediction(one, answer) for one, answer in zip(good, answers, strict=True)],
            "problems": [problem.to_json() for problem in problems],
            "timings_ms": {
                "decode": _ms(decoded - began),
                "queue": _ms(found.queue_ns / 1e9),
                "compute": _ms(found.compute_ns / 1e9),
                "total": _ms(time.perf_counter() - began),
            },
        })

    def _items(self, media: str, body: bytes) -> tuple[list[tuple[str, items.Asked]], list[Problem]]:
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            try:
                told = wire.loads(body)
            except ValueError as error:
                raise Invalid("request body", "JSON in UTF-8", str(error)) from None
            if not isinstance(told, dict):
                raise Invalid("request body", "a JSON object", type(told).__name__)
            return items.named(told, media), []
        if media == "row" and kind in rows.KINDS:
            found, problems = rows.parse(body, rows.KINDS[kind])
            if len(found) > items.MAX_ROWS:
                raise Invalid("rows", f"at most {items.MAX_ROWS}", len(found), "send them in parts")
            return [(f"row {place}", row) for place, row in enumerate(found, 1)], problems
        if media in RAW and (kind.startswith(RAW[media]) or kind in ("application/octet-stream", "")):
            return ([(media, body)] if body else []), []
        accepted = "text/csv" if media == "row" else f"{RAW[media]}*"
        raise Invalid("content-type", f"{accepted} or application/json", kind)

    # ---- reading

    def _check(self, path: str) -> None:
        """Who may ask."""
        host = (urlsplit(f"//{self.headers.get('Host', '')}").hostname or "").lower()
        if self.server.is_local and host not in LOOPBACK:
            raise Denied(f"host must be this machine; got {host}", "other sites' pages may not ask")
        if self.server.token and not path.startswith("/v2/health/"):
            told = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
            if not hmac.compare_digest(told.encode(), self.server.token.encode()):
                raise Unauthorized("the token must be the server's; got another, or none", "Authorization: Bearer ...")

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

    def _header_length(self) -> int | None:
        text = self.headers.get(protocol.HEADER_LENGTH)
        if text is None:
            return None
        if not (text.isascii() and text.isdecimal() and len(text) < 20):
            raise Invalid(protocol.HEADER_LENGTH, "a whole number from 0", text)
        return int(text)

    def _failed(self, path: str, error: LoopworksError) -> Reply:
        """An error as the route's protocol has it: ours with code and hint, the inference protocol's as one text."""
        headers = {"Retry-After": "1"} if error.status == 503 else {}
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        told = error.to_json()["error"]
        if path != "/v2" and not path.startswith("/v2/"):
            return _json({"error": told}, error.status, headers)
        sentence = told["message"] + (f" ({told['hint']})" if told["hint"] else "")
        return _json({"error": sentence}, 400 if error.status in (409, 422) else error.status, headers)


def _result(served: Served, inputs: Any, timeout_s: float) -> Any:
    future = served.submit(inputs, timeout_s)
    try:
        return future.result(timeout_s + 1)
    except Late:
        future.cancel()
        raise TimedOut(f"model {served.name!r} must answer within {timeout_s:g} s; got nothing") from None


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    return Reply(wire.dumps(body), status, headers=headers or {})


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
