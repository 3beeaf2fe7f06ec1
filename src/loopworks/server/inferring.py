"""From the bytes of an inference request to the bytes of its answer: one implementation for every way in over HTTP.

It works in the event loop and by callbacks, so that a request costs no task. Requests for light models that arrive in
one turn of the loop are run as one batch at its end; all others go through the engine's queues.
"""

import asyncio
import time
import zlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from loopworks.core.errors import Invalid, NotFound
from loopworks.infer import light, protocol
from loopworks.infer.chains import tensors
from loopworks.infer.engine import TIMEOUT_S, Served
from loopworks.server.answer import Reply
from loopworks.server.asking import Asked, Asking
from loopworks.server.chained import Stopped
from loopworks.server.guard import unzip
from loopworks.server.heads import Head
from loopworks.server.serving import Serving

LONG_BYTES = 1 << 18
"""JSON above this takes milliseconds to read or write, so a thread does it."""
TIMEOUT = "inference-timeout-ms"
"""Header: how long the client waits, in milliseconds; the protocol's parameter ``timeout`` says it in microseconds."""
_RAW = "application/octet-stream"
_PACKED = ("gzip", "deflate")


class Inferring(Asking):
    """Answers inference requests. All its methods are called in the event loop."""

    def __init__(self, serving: Serving) -> None:
        """Ask the models of ``serving``."""
        super().__init__(serving)
        self._pending: list[Asked] = []

    def _found_model(self, asked: Asked, served: Served) -> None:
        asked.served = served
        if encoding := asked.head.encoding:
            limit = self._serving.space.settings.max_body_bytes
            self._apart(asked, self._unzipped, unzip, asked.body, encoding, limit)
        else:
            self._read(asked, served)

    # ---- reading

    def _unzipped(self, asked: Asked, body: bytes) -> None:
        asked.body = body
        asked.head = asked.head.unpacked()  # and where it begins again, for a new revision, nothing is packed any more
        self._read(asked, _served(asked))

    def _read(self, asked: Asked, served: Served) -> None:
        body, length = asked.body, _header_length(asked.head)
        if (len(body) if length is None else length) > LONG_BYTES:
            self._apart(asked, self._found, protocol.read, body, length, served.bundle.inputs)
        elif length == 0:
            self._found(asked, protocol.read(body, length, served.bundle.inputs))
        elif length is None and (quick := served.light) is not None and quick.is_ready:
            header = protocol.read_header(body)
            if (plain := quick.form.read(header)) is None:
                self._found(asked, protocol.request(header, memoryview(b"")))
            else:
                asked.plain = plain
                self._place(asked, served, plain.rows)
        else:
            self._found(asked, protocol.request(*protocol.parse(body, length)))

    def _found(self, asked: Asked, request: protocol.Request) -> None:
        """The request is read: is it one for this model?"""
        asked.request = request
        if not asked.key and (key := request.parameters.get("key")):
            asked.key = str(key)
            asked.served = self._serving.pick(asked.head.model, asked.head.version, asked.key)
        served = _served(asked)
        names = [spec.name for spec in served.bundle.outputs]
        if (unknown := [one.name for one in request.outputs if one.name not in names]) != []:
            raise Invalid("outputs", f"among {', '.join(names)}", ", ".join(unknown))
        asked.inputs = request.inputs
        self._place(asked, served, protocol.check(request.inputs, served.bundle.inputs))

    def _place(self, asked: Asked, served: Served, rows: int) -> None:
        """Leave a small request of a light model to the end of this turn, and queue any other."""
        asked.limit_s = _limit_s(asked)
        asked.rows = rows
        asked.since_ns = time.perf_counter_ns()
        quick = served.light
        if quick is None or rows > quick.rows or not quick.is_ready:
            self._queue(asked)
            return
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
            served.used = time.monotonic()
            runs = served.light.run(group) if served.light else []
            now = time.perf_counter_ns()
            for asked in group:
                try:
                    self._tell(asked, served, now)
                except Exception as error:  # of one request; the others of the turn are told theirs
                    self._refuse(asked, error)
            for inputs, outputs, rows in runs:
                served.seen(inputs, outputs, rows)

    def _tell(self, asked: Asked, served: Served, now: int) -> None:
        asked.parts_ns = (asked.since_ns - asked.began, 0, now - asked.since_ns)
        if asked.answer is not None:
            self._finish(asked, asked.answer, None)
        elif asked.outputs is not None:
            self._write(asked, served, asked.outputs)
        elif asked.error is None:
            asked.forget()  # it was closed meanwhile: ask its successor, by its own signature
            self.ask(asked)
        elif isinstance(asked.error, light.OutOfRange):
            protocol.request(*protocol.parse(asked.body, None))  # says which number, and of which input
            raise asked.error
        else:
            raise asked.error

    # ---- all others

    def _queue(self, asked: Asked) -> None:
        served = _served(asked)
        if asked.request is None:
            asked.request = protocol.request(*protocol.parse(asked.body, None))
        self._wait(
            asked, served.submit(asked.request.inputs, asked.limit_s)
        )  # where it is replaced by now, we ask anew

    def _answered(self, asked: Asked) -> None:
        if asked.is_over or asked.future is None:
            return
        try:
            found = asked.future.result()
            asked.parts_ns = (asked.since_ns - asked.began, found.queue_ns, found.compute_ns)
            self._write(asked, found.served, found.outputs)
        except Exception as error:  # told to the client, as all below
            self._refuse(asked, error)

    # ---- chains

    def _missing(self, asked: Asked, error: NotFound) -> None:
        """Nothing is deployed under the name: a chain may have it; a thread looks, and answers."""
        serving, head = self._serving, asked.head

        def work(stopped: Stopped) -> tuple[bytes, int | None]:
            if (chain := serving.chains.chain(head.model, head.version)) is None:
                raise error
            body = asked.body
            if head.encoding:
                body = unzip(body, head.encoding, serving.space.settings.max_body_bytes)
            asked.request = request = tensors.read(body, _header_length(head))
            told = serving.chains.tensors(chain, request, _limit_s(asked), stopped, asked.began / 1e9)
            return protocol.write(told.outputs, request, tensors.OUTPUTS, model=told.name, version=told.version)

        try:
            loop = asyncio.get_running_loop()
            asked.limit_s = _limit_s(asked)
            asked.future = serving.chains.start(work)
            asked.timer = loop.call_later(asked.limit_s, self._late, asked)
            asked.future.add_done_callback(
                lambda _: loop.is_closed() or loop.call_soon_threadsafe(self._chained, asked)
            )
        except Exception as fault:  # as in ``ask``
            self._refuse(asked, fault)

    def _chained(self, asked: Asked) -> None:
        if asked.is_over or asked.future is None:
            return
        try:
            self._written(asked, asked.future.result())
        except Exception as error:  # as in ``ask``
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
        if (accepted := asked.head.accepted) in _PACKED:  # a list of what a library could unpack is no wish to wait
            headers["Content-Encoding"] = accepted
            body = _packed(body, accepted)
        self._end(asked, "done", Reply(200, headers, body, "application/json" if length is None else _RAW))


def _served(asked: Asked) -> Served:
    if asked.served is None:
        raise RuntimeError("a request is asked before anything else")
    return asked.served


def _limit_s(asked: Asked) -> float:
    """How long the client lets the request take: the shorter of what header and parameter say, if any does."""
    limits = [TIMEOUT_S]
    if asked.request is not None and asked.request.timeout_s is not None:
        limits.append(asked.request.timeout_s)
    if (text := asked.head.headers.get(TIMEOUT)) is not None:
        if not (text.isascii() and text.isdecimal() and 0 < len(text) < 10 and int(text) > 0):
            raise Invalid(TIMEOUT, "a whole number of milliseconds above 0", text)
        limits.append(int(text) / 1000)
    return min(limits)


def _packed(body: bytes, accepted: str) -> bytes:
    pack = zlib.compressobj(1, zlib.DEFLATED, 31 if accepted == "gzip" else 15)
    return pack.compress(body) + pack.flush()


def _header_length(head: Head) -> int | None:
    text = head.headers.get("inference-header-content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise Invalid(protocol.HEADER_LENGTH, "a whole number from 0", text)
    return int(text)
