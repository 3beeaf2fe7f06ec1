"""What every request passes first: who asks, from where, and how much they send; and the last net for faults."""

import asyncio
import hmac
import zlib
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loopworks.core.errors import Denied, Invalid, TimedOut, TooLarge, Unauthorized
from loopworks.core.settings import Settings
from loopworks.server import answer

OPEN = frozenset({"/v2/health/live", "/v2/health/ready", "/api/health", "/", "/page.css", "/page.js"})
"""Paths that need no token: health, and the page itself, which holds nothing of the workspace."""
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
STALL_S = 30.0
"""Longest pause between two parts of a body."""


class Rules:
    """Who may ask what: the one place that says so, for every way in."""

    def __init__(self, settings: Settings) -> None:
        """The rules of ``settings``."""
        self.settings = settings
        self.is_local = settings.host in LOOPBACK

    def allowed(self, headers: Mapping[str, str], method: str, path: str) -> None:
        """Let a request pass by its headers (names in lower case), before anything of its body is looked at.

        Raises: Denied, Unauthorized.
        """
        self._check_host(headers)
        self._check_origin(method, headers)
        self._check_token(path, headers)

    def _check_host(self, headers: Mapping[str, str]) -> None:
        """A page of another site may make a browser ask us under that site's name (DNS rebinding)."""
        if self.is_local and (host := _host(headers.get("host", ""))) not in LOOPBACK:
            raise Denied(f"host name must be {', '.join(sorted(LOOPBACK))}; got {host!r}", "ask 127.0.0.1")

    def _check_origin(self, method: str, headers: Mapping[str, str]) -> None:
        """A page of another site may make a browser post to us; browsers say so, other clients send no origin."""
        origin = headers.get("origin", "")
        if method in ("GET", "HEAD", "OPTIONS") or not origin:
            return
        if urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
            raise Denied(f"requests that change something must come from our own page; got origin {origin!r}")

    def _check_token(self, path: str, headers: Mapping[str, str]) -> None:
        if path not in OPEN:
            check_token(self.settings, headers.get("authorization", ""))


class Guard:
    """ASGI middleware: the rules, body size and compression; and nothing leaves it but an answer."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        """Guard ``app`` by ``settings``."""
        self.app = app
        self.rules = Rules(settings)
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer why not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_begun = False

        async def told(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._pass(scope, receive, told)
        except Exception as error:  # the top of a request: whatever it is, the client gets one clear answer
            if has_begun:
                raise
            await answer.failed(Request(scope), error)(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self.rules.allowed(headers, scope["method"], scope["path"])
        if not headers.get("content-length") and "transfer-encoding" not in headers:
            await self.app(scope, receive, send)
            return
        body = await self._read(headers, receive)
        if body is None:
            return  # the client has gone
        scope = {**scope, "headers": _unpacked(scope["headers"], len(body))}
        await self.app(scope, _replay(body, receive), send)

    async def _read(self, headers: Mapping[str, str], receive: Receive) -> bytes | None:
        """The whole body, unpacked, within the limit; ``None`` where the client went away."""
        limit = self.settings.max_body_bytes
        check_length(headers, limit)
        parts: list[bytes] = []
        size = 0
        is_more = True
        while is_more:
            try:
                message = await asyncio.wait_for(receive(), STALL_S)
            except TimeoutError:
                raise stalled() from None
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise too_large(limit, "more")
            is_more = message.get("more_body", False)
        if not (encoding := encoding_of(headers)):
            return b"".join(parts)
        return await run_in_threadpool(unzip, b"".join(parts), encoding, limit)


def check_token(settings: Settings, authorization: str) -> None:
    """``Unauthorized`` where the server has a token and ``authorization`` does not carry it."""
    if not settings.token:
        return
    kind, _, given = authorization.partition(" ")
    if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), settings.token.encode()):
        raise Unauthorized(
            "the request must carry the server's token; got none or another", "Authorization: Bearer ..."
        )


def _host(header: str) -> str:
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:  # such as an open bracket
        return header


def check_length(headers: Mapping[str, str], limit: int) -> None:
    """``TooLarge`` where the body says itself that it is."""
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large(limit, f"{int(length)}")


def encoding_of(headers: Mapping[str, str]) -> str:
    """How the body is packed; empty where it is not."""
    found = headers.get("content-encoding", "").strip().lower()
    return "" if found == "identity" else found


def stalled() -> TimedOut:
    """What a client is told that stops in the middle of a body."""
    return TimedOut(f"the request body must arrive without pauses over {STALL_S:.0f} s; got one")


def too_large(limit: int, got: str) -> TooLarge:
    """What a client is told that sends more than ``limit``."""
    return TooLarge(f"request body must be at most {limit} bytes; got {got}", "raise max_body_bytes if it is wanted")


def unzip(body: bytes, encoding: str, limit: int) -> bytes:
    """The body unpacked; ``TooLarge`` and ``Invalid`` before more than ``limit`` bytes are made of it."""
    if encoding not in ("gzip", "deflate"):
        raise Invalid("content-encoding", "gzip or deflate", encoding)
    unpack = zlib.decompressobj(31 if encoding == "gzip" else 15)
    try:
        found = unpack.decompress(body, limit + 1)
    except zlib.error as error:
        raise Invalid("request body", f"{encoding} data", str(error)) from None
    if len(found) > limit:
        raise too_large(limit, "more once unpacked")
    if not unpack.eof or unpack.unused_data:
        raise Invalid("request body", f"{encoding} data and nothing else", "a part" if not unpack.eof else "more")
    return found


def _unpacked(headers: list[tuple[bytes, bytes]], size: int) -> list[tuple[bytes, bytes]]:
    dropped = (b"content-encoding", b"content-length", b"transfer-encoding")
    return [*((n, v) for n, v in headers if n.lower() not in dropped), (b"content-length", str(size).encode())]


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once, then what the connection says (that the client has gone)."""
    is_sent = False

    async def again() -> Message:
        nonlocal is_sent
        if is_sent:
            return await receive()
        is_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
