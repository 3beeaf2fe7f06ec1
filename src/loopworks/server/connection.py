"""One client's connection: Uvicorn's, with inference requests answered in the parser's callbacks, and limits.

An inference request passes no ASGI and no framework: a small model answers in less time than these take. All other
requests go to the application; answers leave in the order of the requests, whoever gives them.
"""

import asyncio
import re
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Any, NamedTuple
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from loopworks.server import guard
from loopworks.server.exchange import Exchange
from loopworks.server.heads import Head, Heads
from loopworks.server.inferring import Inferring
from loopworks.server.parting import HEAD_BYTES, WRITE_S, Parting
from loopworks.server.predicting import Predicting
from loopworks.server.serving import Serving
from loopworks.server.telling import Telling

HEAD_S = 20.0
"""How long a client may take from connecting, or from the first byte of a request, to the end of its headers."""
_INFER = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_PREDICT = re.compile(r"/predict/([^/]+)")


@dataclass(slots=True)
class Starts:
    """Starts of answers by status and content type, for as long as the headers that all have stay the same."""

    common: list[tuple[bytes, bytes]]
    made: dict[tuple[int, str], bytes]


class Connection(Parting):
    """Answers inference requests itself, and gives up clients that let it wait; see ``bound``."""

    inferring: Inferring
    predicting: Predicting
    rules: guard.Rules
    telling: Telling
    heads: Heads
    starts: Starts
    limit: int
    """Most bytes of a body."""

    def __init__(self, *given: Any, **named: Any) -> None:
        """As Uvicorn makes it."""
        super().__init__(*given, **named)
        self._first: bytes | None = None
        """What begins with the head of the request that the parser is at."""
        self._head_since = 0.0
        self._head_size = 0
        self._idle_since = 0.0
        self._stuck_since = inf
        self._due = inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf

    # ---- what comes in

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._head_since = self.loop.time()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Parse; the callbacks below are called by it."""
        if not (self.stage or self.is_ended) and (self.cycle is None or self.cycle.response_complete):
            if (known := self.heads.find(data)) is not None:
                self._take_known(*known)
                return
            self._first = data
        else:
            self._first = None
        super().data_received(data)
        self._watch()

    def on_message_begin(self) -> None:
        """A request begins; what ASGI needs of it is made when it is known to be for ASGI."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self.stage = "head"
        self._head_since = self.loop.time()
        self._head_size = self.loose = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self._head_size += len(name) + len(value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Take an inference request, and leave any other to Uvicorn."""
        first, self._first = self._first, None
        if self.is_ended:
            return  # what comes after a request that ended the connection
        if self._head_size + len(self.url) > HEAD_BYTES:
            self.refuse_head()
            return
        if self.parser.should_upgrade():
            self.stage = "upgrade"
            return
        self.stage = "body"
        if self.parser.get_method() == b"POST" and (route := _route(self.url)):
            head = self._head(route)
            if not head.is_picture or self.predicting.takes(head.model, head.headers):
                self._take(head, first)
                return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()
        self.cycle.transport = self  # type: ignore[assignment]  # which knows how to end
        self.cycle.keep_alive = self.cycle.keep_alive and not self.is_leaving

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self.loose = 0
        if self.stage != "body":
            return  # of a request that is not taken
        if isinstance(self.cycle, Exchange):
            self.cycle.take(body)
        elif self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is whole."""
        if self.stage != "body":
            return
        self.stage = ""
        if isinstance(self.cycle, Exchange):
            self.cycle.end()
        elif self.cycle is not None:
            super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone: nothing under way is needed any more."""
        self._due = inf
        if self._timer is not None:
            self._timer.cancel()
        waiting = [cycle for cycle, _ in self.pipeline]
        self.pipeline.clear()
        for cycle in (*waiting, self._turn, self.cycle):
            if isinstance(cycle, Exchange):
                cycle.leave()
        if isinstance(self.cycle, Exchange):
            self.cycle = None  # type: ignore[assignment]  # so that Uvicorn does not look for its own in it
        elif self._turn is not None and not isinstance(self._turn, Exchange):
            self._turn.disconnected = True  # Uvicorn thinks of the last alone
            self._turn.message_event.set()
        super().connection_lost(exc)

    # ---- whose turn it is

    _turn: Any = None
    """Who is being answered."""

    def _head(self, route: "Route") -> Head:
        return Head(
            route.path,
            route.model,
            route.version,
            {name.decode("latin-1"): value.decode("latin-1") for name, value in self.headers},
            keep_alive=self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0",
            expects=self.expect_100_continue,
            is_picture=route.is_picture,
        )

    def _take(self, head: Head, first: bytes | None) -> None:
        if self.transport.is_closing():
            return  # what comes after a request that ended the connection
        before = self.cycle
        exchange = Exchange(self, head)
        self.cycle = exchange  # type: ignore[assignment]
        if first is not None and exchange.is_allowed:
            self.heads.keep(first, head, self.headers)
        if before is None or before.response_complete:
            self._turn = exchange
            exchange.begin()
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))  # type: ignore[arg-type]

    def _take_known(self, head: Head, body: bytes) -> None:
        """A whole request with a head that was parsed and let pass before; all before it is answered."""
        if self.transport.is_closing():
            return
        exchange = Exchange(self, head, is_known=True)
        self.cycle = self._turn = exchange  # type: ignore[assignment]
        exchange.begin()
        exchange.take(body)
        exchange.end()
        self._watch()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._turn = cycle
        super()._start_asgi_task(cycle, app)

    def start(self, status: int, kind: str) -> bytes:
        """The line of an answer and those of its headers that all such answers have."""
        common = self.server_state.default_headers  # another list once a second, for the date
        if common is not self.starts.common:
            self.starts.common, self.starts.made = common, {}
        found = self.starts.made.get((status, kind))
        if found is None:
            told = [*common, (b"content-type", kind.encode())]
            found = STATUS_LINE[status] + b"".join([b"%b: %b\r\n" % pair for pair in told])
            self.starts.made[status, kind] = found
        return found

    def on_response_complete(self) -> None:
        """An answer has been given: on to the next request, or wait for one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing() or (self.is_ended and not self.pipeline):
            return
        if self.pipeline:
            self.loop.call_soon(self._next)  # not at once: a thousand short answers must not nest
        else:
            self.flow.resume_reading()
            self._idle_since = self.loop.time()
            self._watch()

    def _next(self) -> None:
        if self.transport.is_closing() or not self.pipeline or not self._turn.response_complete:
            return
        if self.flow.write_paused:
            return  # the client takes no answers at present: ``resume_writing`` goes on
        cycle: Any
        cycle, app = self.pipeline.pop()
        if not self.pipeline:
            self.flow.resume_reading()  # the last one's body may be on its way
        if isinstance(cycle, Exchange):
            self._turn = cycle
            cycle.begin()
        else:
            self._start_asgi_task(cycle, app)
        self._watch()

    def pause_writing(self) -> None:
        """The client takes its answers more slowly than we give them."""
        super().pause_writing()
        self.flow.pause_reading()
        self._stuck_since = self.loop.time()
        self._watch()

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._stuck_since = inf
        if self.pipeline:
            self.loop.call_soon(self._next)
        else:
            self.flow.resume_reading()
        self._watch()

    # ---- patience

    def _watch(self) -> None:
        """Note until when the client must have made its move. One timer follows, as most moves come long before."""
        cycle: Any = self.cycle
        if self._stuck_since < inf:
            due = self._stuck_since + WRITE_S
        elif self.stage == "head" or cycle is None:
            due = self._head_since + HEAD_S
        elif isinstance(cycle, Exchange) and cycle.is_waiting:
            due = self.loop.time() + guard.STALL_S
        elif cycle.response_complete and not self.pipeline:
            due = inf if self.is_ended else self._idle_since + self.timeout_keep_alive
        else:
            due = inf
        self._due = due
        if due < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = due
            self._timer = self.loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer, self._timer_at = None, inf
        if self._due == inf:
            return
        if self.loop.time() < self._due:
            self._timer_at = self._due
            self._timer = self.loop.call_at(self._due, self._look)
        elif isinstance(self.cycle, Exchange) and self.cycle.is_waiting and self._stuck_since == inf:
            self.cycle.refuse(guard.stalled())
        elif self._stuck_since < inf:
            self.transport.abort()
        else:
            self.transport.close()


def bound(serving: Serving, rules: guard.Rules, telling: Telling) -> type[Connection]:
    """The class of a server's connections, as Uvicorn wants it."""
    limit = rules.settings.max_body_bytes
    asking = {"inferring": Inferring(serving), "predicting": Predicting(serving)}
    shared = {"heads": Heads(limit), "starts": Starts([], {})}
    return type(
        "BoundConnection", (Connection,), {"rules": rules, "telling": telling, "limit": limit, **asking, **shared}
    )


class Route(NamedTuple):
    """A URL that is answered here."""

    path: str
    model: str
    version: str = ""
    is_picture: bool = False
    """Whether it may get a picture for people, and no inference request."""


def _route(url: bytes) -> Route | None:
    """What a URL asks; ``None`` where it is one for the application. Long ones are not kept in memory."""
    return _known(url) if len(url) <= 256 else _found(url)


def _found(url: bytes) -> Route | None:
    if not url.startswith((b"/v2/models/", b"/predict/")) or not url.isascii():
        return None
    path = unquote(url.partition(b"?")[0].partition(b"#")[0].decode())
    if found := _INFER.fullmatch(path):
        return Route(path, found[1], found[2] or "")
    if (found := _PREDICT.fullmatch(path)) and b"?" not in url:  # a query asks for what only the application knows
        return Route(path, found[1], is_picture=True)
    return None


_known = lru_cache(1024)(_found)
