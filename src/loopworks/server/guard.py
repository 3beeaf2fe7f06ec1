"""What every request passes first: who asks, from where, and how much they send; and the last net for faults."""

import asyncio
import zlib
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loopworks.core.errors import Denied, Invalid, TimedOut, TooLarge, Unauthorized
from loopworks.core.settings import Settings
from loopworks.server import answer
from loopworks.server.quotas import Quotas
from loopworks.server.rates import Rate
from loopworks.server.scopes import OPEN, Need, needed
from loopworks.server.telling import NOTE, Note, Telling
from loopworks.server.tokens import ANYONE, Tokens, Who
from loopworks.store.tokens import SCOPES

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
STREAMED = "multipart/x-mixed-replace"
"""Bodies of this type are read by their route as they come; whoever reads them limits each part."""
STALL_S = 30.0
"""Longest pause between two parts of a body."""


class Rules:
    """Who may ask what, and how often: the one place that says so, for every way in."""

    def __init__(self, settings: Settings, tokens: Tokens | None, quotas: Quotas | None = None) -> None:
        """The rules of ``settings``, for those who have one of ``tokens``, within ``quotas``."""
        self.settings = settings
        self.is_local = settings.host in LOOPBACK
        self._tokens = tokens
        self._quotas = quotas if quotas is not None and quotas.are_any else None
        self._by_token = Rate("a token", settings.requests_per_s, settings.request_burst)
        self._by_address = Rate("an address", settings.requests_per_s_address, settings.request_burst)

    def allowed(self, headers: Mapping[str, str], method: str, path: str, address: str = "") -> Who:
        """Let a request pass by its headers (names in lower case), before anything of its body is looked at.

        Raises: Denied, Unauthorized, TooMany.
        """
        self._check_host(headers)
        self._check_origin(method, headers)
        return self.admitted(headers.get("authorization", ""), method, path, address)

    def admitted(self, authorization: str, method: str, path: str, address: str = "") -> Who:
        """Who asks, where they may; other protocols name the method and path that would ask the same over HTTP.

        Raises:
            Unauthorized: no token, or one that is unknown, expired or revoked.
            Denied: the token has not the scope.
            TooMany: the token or the address asks too often, or the deployment is asked too often.
        """
        self._by_address.take(address)
        if path in OPEN:
            return ANYONE
        who = self._who(authorization)
        if who is ANYONE and self._quotas is None:
            return who
        need = needed(method, path)
        if who is not ANYONE:
            self._by_token.take(who.id)
            self._check_scope(who, need, f"{method} {path}")
        if self._quotas is not None and need.is_asking:
            self._quotas.take(need.deployment, who)
        return who

    def _check_scope(self, who: Who, need: Need, what: str) -> None:
        if self._may(who, need):
            return
        wanted = " or ".join(scope for scope in SCOPES if scope in need.scopes)
        of = f" of deployment {need.deployment!r}" if need.deployment else ""
        raise Denied(
            f"token {who.name!r} must have the scope {wanted}{of} for {what}; it has not",
            "an admin makes another: loopworks token add",
        )

    def _who(self, authorization: str) -> Who:
        if self.is_local and (self._tokens is None or not self._tokens.are_needed):
            return ANYONE
        kind, _, given = authorization.partition(" ")
        who = self._tokens.who(given.strip()) if self._tokens and kind.lower() == "bearer" else None
        if who is None:
            raise Unauthorized(
                "the request must carry a token of the server; got none, or one that is unknown, expired or revoked",
                "Authorization: Bearer ...",
            )
        return who

    @staticmethod
    def _may(who: Who, need: Need) -> bool:
        if not who.scopes & need.scopes:
            return False
        return not who.deployments or need.is_common or need.deployment in who.deployments

    def _check_host(self, headers: Mapping[str, str]) -> None:
        """A page of another site may make a browser ask us under that site's name (DNS rebinding).

        Who says no name is no browser, but a probe that speaks HTTP/1.0.
        """
        if self.is_local and "host" in headers and (host := _host(headers["host"])) not in LOOPBACK:
            raise Denied(f"host name must be {', '.join(sorted(LOOPBACK))}; got {host!r}", "ask 127.0.0.1")

    def _check_origin(self, method: str, headers: Mapping[str, str]) -> None:
        """A page of another site may make a browser post to us; browsers say so, other clients send no origin."""
        origin = headers.get("origin", "")
        if method in ("GET", "HEAD", "OPTIONS") or not origin:
            return
        if urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
            raise Denied(f"requests that change something must come from our own page; got origin {origin!r}")


class Guard:
    """ASGI middleware: the rules, body size and compression; and nothing leaves it but an answer."""

    def __init__(self, app: ASGIApp, rules: Rules, telling: Telling) -> None:
        """Guard ``app`` by ``rules``; all ways into a server share them, as they count who asks how often.

        ``telling`` hears of every request.
        """
        self.app = app
        self.rules = rules
        self.settings = rules.settings
        self.telling = telling

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer why not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        address = scope["client"][0] if scope.get("client") else ""
        note = Note(scope["method"], scope["path"], headers, address, self.telling.id(headers))
        has_begun = False

        async def told(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            if message["type"] == "http.response.start":
                note.status = message["status"]
                if note.id:
                    message = {**message, "headers": [*message["headers"], (b"x-request-id", note.id.encode())]}
            else:
                note.size_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._pass({**scope, NOTE: note}, receive, told)
        except Exception as error:  # the top of a request: whatever it is, the client gets one clear answer
            if has_begun:
                raise
            await answer.failed(Request(scope), error)(scope, receive, told)
        finally:
            if self.telling.is_on:
                self.telling.tell(note)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        note: Note = scope[NOTE]
        headers = note.headers
        note.who = self.rules.allowed(headers, scope["method"], scope["path"], note.address)
        if not headers.get("content-length") and "transfer-encoding" not in headers:
            await self.app(scope, receive, send)
            return
        if headers.get("content-type", "").startswith(STREAMED):
            if headers.get("content-encoding", "identity") != "identity":
                raise Invalid("content-encoding", f"identity for {STREAMED}", headers["content-encoding"])
            await self.app(scope, _unstalled(receive), send)
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
            message = await _next(receive)
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


def author(request: Request, told: str = "") -> str:
    """Who does what is asked: the name of the token, where there is one; else what the request says itself."""
    note: Note = request.scope[NOTE]
    return note.who.name or told


def check_deployment(request: Request, name: str) -> None:
    """``Denied`` where the token may ask other deployments alone; for what only the body names."""
    who = request.scope[NOTE].who
    if who.deployments and name not in who.deployments:
        raise Denied(
            f"token {who.name!r} must be one of deployment {name!r}; it is of {', '.join(sorted(who.deployments))}",
            "an admin makes another: loopworks token add",
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


async def _next(receive: Receive) -> Message:
    try:
        return await asyncio.wait_for(receive(), STALL_S)
    except TimeoutError:
        raise stalled() from None


def _unstalled(receive: Receive) -> Receive:
    """The body as it comes, without long pauses; after it, what the connection says."""
    is_ended = False

    async def again() -> Message:
        nonlocal is_ended
        message = await receive() if is_ended else await _next(receive)
        is_ended = is_ended or not message.get("more_body", False)
        return message

    return again


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
