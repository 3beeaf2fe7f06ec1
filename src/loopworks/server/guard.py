"""What every request passes first: who asks, from where, and how much they send."""

import hmac
import zlib
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loopworks.core.errors import Denied, Invalid, LoopworksError, TooLarge, Unauthorized
from loopworks.core.settings import Settings
from loopworks.server.answer import refused

OPEN = ("/v2/health/live", "/v2/health/ready", "/api/health")
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Guard:
    """ASGI middleware: host name, token, body size and compression."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        """Guard ``app`` by ``settings``."""
        self.app = app
        self.settings = settings
        self.is_local = settings.host in LOOPBACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer why not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._known(scope["path"], headers)
            body = await self._read(headers, receive)
        except LoopworksError as error:
            await refused(scope["path"], error)(scope, receive, send)
            return
        if body is None:
            await self.app(scope, receive, send)
            return
        scope = {**scope, "headers": _unpacked(scope["headers"], len(body))}
        await self.app(scope, _replay(body, receive), send)

    def _known(self, path: str, headers: dict[str, str]) -> None:
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if self.is_local and host not in LOOPBACK:
            # A page of another site may make a browser ask us under that site's name (DNS rebinding).
            raise Denied(
                f"host name must be {', '.join(sorted(LOOPBACK))}; got {host!r}", "bind another host to allow it"
            )
        token = self.settings.token
        if token and path not in OPEN:
            given = headers.get("authorization", "").removeprefix("Bearer ").encode()
            if not hmac.compare_digest(given, token.encode()):
                raise Unauthorized("the request must carry the server's token", "send Authorization: Bearer TOKEN")

    async def _read(self, headers: dict[str, str], receive: Receive) -> bytes | None:
        """The whole body, unpacked, within the limit; ``None`` where there is none."""
        limit = self.settings.max_body_bytes
        length = headers.get("content-length", "")
        if not length and "transfer-encoding" not in headers:
            return None
        if length and (not length.isdecimal() or int(length) > limit):
            raise TooLarge(f"request body must be at most {limit} bytes; got {length}", "raise max_body_bytes")
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b""
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise TooLarge(f"request body must be at most {limit} bytes; got more", "raise max_body_bytes")
            if not message.get("more_body"):
                break
        return _unzip(b"".join(parts), headers.get("content-encoding", ""), limit)


def _unzip(body: bytes, encoding: str, limit: int) -> bytes:
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise Invalid("content-encoding", "gzip or deflate", encoding)
    unpack = zlib.decompressobj(31 if encoding == "gzip" else 15)
    try:
        found = unpack.decompress(body, limit + 1)
    except zlib.error as error:
        raise Invalid("request body", f"{encoding} data", str(error)) from None
    if len(found) > limit:
        raise TooLarge(f"request body must be at most {limit} bytes unpacked; got more", "raise max_body_bytes")
    if not unpack.eof:
        raise Invalid("request body", f"whole {encoding} data", "a part")
    return found


def _unpacked(headers: list[tuple[bytes, bytes]], size: int) -> list[tuple[bytes, bytes]]:
    dropped = (b"content-encoding", b"content-length", b"transfer-encoding")
    return [*((n, v) for n, v in headers if n.lower() not in dropped), (b"content-length", str(size).encode())]


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once, then what the connection says (that the client has gone)."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
