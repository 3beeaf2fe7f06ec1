"""From the bytes of an inference request to the bytes of its answer: one implementation for every way in over HTTP.

It works in the event loop and by callbacks, so that a request costs no task. Requests for light models that arrive in
one turn of the loop are run as one batch at its end; all others go through the engine's queues.
"""

import asyncio
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from loopworks.core.errors import Cancelled, Invalid, LoopworksError, NotFound, TimedOut
from loopworks.infer import light, protocol
from loopworks.infer.chains import tensors
from loopworks.infer.engine import TIMEOUT_S, Replaced, Served
from loopworks.infer.forms import Plain
from loopworks.server.answer import Reply, refusal
from loopworks.server.guard import encoding_of, unzip
from loopworks.server.serving import KEY_HEADER, Serving

LONG_BYTES = 1 << 18
"""JSON above this takes milliseconds to read or write, so a thread does it."""
TIMEOUT = "inference-timeout-ms"
"""Header: how long the client waits, in milliseconds; the protocol's parameter ``timeout`` says it in microseconds."""
_RAW = "application/octet-stream"
_PACKED = ("gzip", "deflate")


class Asked:
    """One request, and what is known of it so far."""

    __slots__ = (
        "began",
        "body",
        "done",
        "future",
        "headers",
        "is_over",
        "key",
        "light",
        "limit_s",
        "model",
        "parts_ns",
        "path",
        "plain",
        "request",
        "served",
        "since_ns",
        "timer",
        "version",
    )

    def __init__(
        self,
        model: str,
        version: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        done: Callable[[Reply], None],
    ) -> None:
        """``headers`` have names in lower case; ``done`` takes the answer, in the event loop, and once at most."""
        self.model, self.version, self.path = model, version, path
        self.headers = headers
        self.key = headers.get(KEY_HEADER, "")
        self.body = body
        self.done: Callable[[Reply], None] | None = done
        self.began = time.perf_counter()
        self.since_ns = 0
        self.parts_ns = (0, 0, 0)
        """How long it was read, queued and computed, once it is answered."""
        self.limit_s = TIMEOUT_S
        self.served: Served | None = None
        self.plain: Plain | None = None
        self.request: protocol.Request | None = None
        self.light: light.Asked | None = None
        self.future: Future[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.is_over = False


class Inferring:
    """Answers inference requests. All its methods are called in the event loop."""

    def __init__(self, serving: Serving) -> None:
        """Ask the models of ``serving``."""
        self._serving = serving
        self._pending: list[Asked] = []

    def ask(self, asked: Asked) -> None:
        """Answer ``asked`` sooner or later, by its ``done``; never raises."""
        try:
            if self._serving.engine.is_parked(asked.model):
                self._apart(asked, self._found_model, self._serving.pick, asked.model, asked.version, asked.key)
                return
            self._found_model(asked, self._serving.pick(asked.model, asked.version, asked.key))
        except NotFound as error:
            self._as_chain(asked, error)
        except Exception as error:  # the top of a request: whatever it is, the client gets one clear answer
            self._refuse(asked, error)

    def _found_model(self, asked: Asked, served: Served) -> None:
        asked.served = served
        if encoding := encoding_of(asked.headers):
            limit = self._serving.space.settings.max_body_bytes
            self._apart(asked, self._unzipped, unzip, asked.body, encoding, limit)
        else:
            self._read(asked)

    def cancel(self, asked: Asked) -> None:
        """The client has gone: nobody needs the answer any more."""
        if not asked.is_over:
            asked.done = None
            self._refuse(asked, Cancelled("the client went away before the answer"))

    # ---- reading

    def _unzipped(self, asked: Asked, body: bytes) -> None:
        asked.body = body
        asked.headers = {name: value for name, value in asked.headers.items() if name != "content-encoding"}
        self._read(asked)  # and where it begins again, for a new revision, nothing is packed any more

    def _read(self, asked: Asked) -> None:
        served, body = _served(asked), asked.body
        length = _header_length(asked.headers)
        if (len(body) if length is None else length) > LONG_BYTES:
            self._apart(asked, self._found, protocol.read, body, length, served.bundle.inputs)
        elif length == 0:
            self._found(asked, protocol.read(body, length, served.bundle.inputs))
        else:
            header, tail = protocol.parse(body, length)
            if length is None and (quick := served.light) is not None and quick.is_ready:
                asked.plain = quick.form.read(header)
            if asked.plain is None:
                self._found(asked, protocol.request(header, tail))
            else:
                self._place(asked, asked.plain.rows)

    def _found(self, asked: Asked, request: protocol.Request) -> None:
        """The request is read: is it one for this model?"""
        asked.request = request
        if not asked.key and (key := request.parameters.get("key")):
            asked.key = str(key)
            asked.served = self._serving.pick(asked.model, asked.version, asked.key)
        served = _served(asked)
        names = [spec.name for spec in served.bundle.outputs]
        if (unknown := [one.name for one in request.outputs if one.name not in names]) != []:
            raise Invalid("outputs", f"among {', '.join(names)}", ", ".join(unknown))
        self._place(asked, protocol.check(request.inputs, served.bundle.inputs))

    def _place(self, asked: Asked, rows: int) -> None:
        """Leave a small request of a light model to the end of this turn, and queue any other."""
        served = _served(asked)
        asked.limit_s = _limit_s(asked)
        asked.since_ns = time.perf_counter_ns()
        quick = served.light
        if quick is None or rows > quick.rows or not quick.is_ready:
            self._queue(asked)
            return
        served.used = time.monotonic()
        inputs = None if asked.request is None else asked.request.inputs
        asked.light = light.Asked(rows, asked.since_ns, None if inputs else asked.plain, inputs)
        self._pending.append(asked)
        if len(self._pending) == 1:
            asyncio.get_running_loop().call_soon(self._turn)

    # ---- light models

    def _turn(self) -> None:
        """Run what this turn of the loop has brought, model by model."""
        pending, self._pending = self._pending, []
        by_model: dict[Served, list[Asked]] = {}
        for asked in pending:
            if not asked.is_over:
                by_model.setdefault(_served(asked), []).append(asked)
        for served, group in by_model.items():
            runs = served.light.run([one.light for one in group if one.light is not None]) if served.light else []
            for asked in group:
                try:
                    self._tell(asked, served)
                except Exception as error:
                    self._refuse(asked, error)
            for inputs, outputs, rows in runs:
                served.seen(inputs, outputs, rows)

    def _tell(self, asked: Asked, served: Served) -> None:
        one = asked.light
        asked.parts_ns = (asked.since_ns - int(asked.began * 1e9), 0, time.perf_counter_ns() - asked.since_ns)
        if one is None or (one.error is None and one.body is None and one.outputs is None):
            asked.plain = asked.request = None  # it was closed meanwhile: ask its successor, by its own signature
            self.ask(asked)
        elif isinstance(one.error, light.OutOfRange):
            protocol.request(*protocol.parse(asked.body, None))  # says which number, and of which input
            raise one.error
        elif one.error is not None:
            raise one.error
        elif one.body is not None:
            self._finish(asked, one.body, None)
        elif one.outputs is not None:
            self._write(asked, served, one.outputs)

    # ---- all others

    def _queue(self, asked: Asked) -> None:
        served = _served(asked)
        if asked.request is None:
            asked.request = protocol.request(*protocol.parse(asked.body, None))
        loop = asyncio.get_running_loop()
        future = served.submit(asked.request.inputs, asked.limit_s)  # where it is replaced by now, we ask anew
        asked.future = future
        asked.timer = loop.call_later(asked.limit_s, self._late, asked)
        future.add_done_callback(partial(_hand_over, loop, self._answered, asked))

    def _late(self, asked: Asked) -> None:
        text = f"the model must answer within {asked.limit_s:g} s; got no answer"
        self._refuse(asked, TimedOut(text, "try again later, or wait longer"))

    def _answered(self, asked: Asked) -> None:
        if asked.is_over or asked.future is None:
            return
        try:
            found = asked.future.result()
            asked.parts_ns = (asked.since_ns - int(asked.began * 1e9), found.queue_ns, found.compute_ns)
            self._write(asked, found.served, found.outputs)
        except Exception as error:
            self._refuse(asked, error)

    # ---- chains

    def _as_chain(self, asked: Asked, missing: NotFound) -> None:
        """Nothing is deployed under the name: a chain may have it; a thread looks, and answers."""
        serving, headers = self._serving, asked.headers

        def work(stopped: Callable[[], bool]) -> tuple[bytes, int | None]:
            if (chain := serving.chains.chain(asked.model, asked.version)) is None:
                raise missing
            encoding = encoding_of(headers)
            body = unzip(asked.body, encoding, serving.space.settings.max_body_bytes) if encoding else asked.body
            asked.request = request = tensors.read(body, _header_length(headers))
            asked.limit_s = _limit_s(asked)
            told = serving.chains.tensors(chain, request, asked.limit_s, stopped, asked.began)
            return protocol.write(told.outputs, request, tensors.OUTPUTS, model=told.name, version=told.version)

        try:
            loop = asyncio.get_running_loop()
            asked.future = serving.chains.start(work)
            asked.future.add_done_callback(partial(_hand_over, loop, self._chained, asked))
        except Exception as error:
            self._refuse(asked, error)

    def _chained(self, asked: Asked) -> None:
        if asked.is_over or asked.future is None:
            return
        try:
            self._written(asked, asked.future.result())
        except Exception as error:
            self._refuse(asked, error)

    # ---- writing

    def _write(self, asked: Asked, served: Served, outputs: Mapping[str, Any]) -> None:
        request = asked.request
        if request is None:
            request = asked.request = protocol.request(*protocol.parse(asked.body, None))
        bundle = served.bundle
        write = partial(protocol.write, model=served.name, version=served.version, classes=bundle.schema.classes)
        if not request.is_binary and sum(array.size for array in outputs.values()) * 10 > LONG_BYTES:
            self._apart(asked, self._written, write, outputs, request, bundle.outputs)
        else:
            self._written(asked, write(outputs, request, bundle.outputs))

    def _written(self, asked: Asked, found: tuple[bytes, int | None]) -> None:
        self._finish(asked, *found)

    def _finish(self, asked: Asked, body: bytes, length: int | None) -> None:
        headers = {} if length is None else {protocol.HEADER_LENGTH: str(length)}
        accepted = asked.headers.get("accept-encoding", "").strip().lower()
        if accepted in _PACKED:  # a list of what a library could unpack is no wish to wait for it
            headers["Content-Encoding"] = accepted
            body = _packed(body, accepted)
        self._end(asked, "done", Reply(200, headers, body, "application/json" if length is None else _RAW))

    def _refuse(self, asked: Asked, error: Exception) -> None:
        if isinstance(error, Replaced) and not asked.is_over:
            asked.plain = asked.request = None
            asyncio.get_running_loop().call_soon(self.ask, asked)
            return
        outcome = error.code if isinstance(error, LoopworksError) else "internal"
        reply = None if asked.done is None else refusal(error, "POST", asked.path)
        self._end(asked, outcome, reply)

    def _end(self, asked: Asked, outcome: str, reply: Reply | None) -> None:
        if asked.is_over:
            return
        asked.is_over = True
        if asked.timer is not None:
            asked.timer.cancel()
        if asked.future is not None:
            asked.future.cancel()  # takes it out of the queue, if it is still there
        if asked.served is not None:
            took_s = time.perf_counter() - asked.began
            self._serving.metrics.count(asked.served.name, outcome, took_s, asked.served.version)
        done, asked.done = asked.done, None
        if done is not None and reply is not None:
            done(reply)

    # ---- threads

    def _apart(self, asked: Asked, then: Callable[[Asked, Any], None], work: Callable[..., Any], *given: Any) -> None:
        """Do ``work`` in a thread, then go on with what it found."""

        def ended(found: "asyncio.Future[Any]") -> None:
            if asked.is_over or found.cancelled():
                return
            try:
                then(asked, found.result())
            except Exception as error:
                self._refuse(asked, error)

        asyncio.get_running_loop().run_in_executor(None, work, *given).add_done_callback(ended)


def _served(asked: Asked) -> Served:
    if asked.served is None:
        raise RuntimeError("a request is asked before anything else")
    return asked.served


def _hand_over(
    loop: asyncio.AbstractEventLoop, then: Callable[[Asked], None], asked: Asked, _future: "Future[Any]"
) -> None:
    """From a worker's thread into the loop; a loop that has ended has no client left to tell."""
    if not asked.is_over and not loop.is_closed():
        loop.call_soon_threadsafe(then, asked)


def _limit_s(asked: Asked) -> float:
    """How long the client lets the request take: the shorter of what header and parameter say, if any does."""
    limits = [TIMEOUT_S]
    if asked.request is not None and asked.request.timeout_s is not None:
        limits.append(asked.request.timeout_s)
    if (text := asked.headers.get(TIMEOUT)) is not None:
        if not (text.isascii() and text.isdecimal() and 0 < len(text) < 10 and int(text) > 0):
            raise Invalid(TIMEOUT, "a whole number of milliseconds above 0", text)
        limits.append(int(text) / 1000)
    return min(limits)


def _packed(body: bytes, accepted: str) -> bytes:
    pack = zlib.compressobj(1, zlib.DEFLATED, 31 if accepted == "gzip" else 15)
    return pack.compress(body) + pack.flush()


def _header_length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("inference-header-content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise Invalid(protocol.HEADER_LENGTH, "a whole number from 0", text)
    return int(text)
