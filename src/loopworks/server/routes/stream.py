"""Many answers in one response, line by line: the items of a large body, the frames of a video, live pictures."""

import asyncio
import contextlib
import io
import tempfile
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Generator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import anyio.to_thread
import orjson
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import iterate_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from loopworks.core.errors import Invalid, LoopworksError, TimedOut, TooLarge
from loopworks.core.values import Problem
from loopworks.infer import local
from loopworks.infer.engine import TIMEOUT_S, Answer
from loopworks.server import accepted, asked, fields
from loopworks.server.asked import Asked
from loopworks.server.guard import STREAMED
from loopworks.server.route import Api
from loopworks.server.serving import Serving

LINES, EVENTS = "application/x-ndjson", "text/event-stream"
PART = 64
"""Items that are asked at once."""
TIMES = 100
"""How many times more items a batch may have than a single request."""
AHEAD = 4
"""Frames of a video file that are asked at once, so that decoding and the model work side by side."""

Row = dict[str, Any]


async def batch(request: Request) -> Response:
    """Answer many items, one line each in their order: a prediction, or the problem of an item that has none."""
    serving, name = _serving(request), request.path_params["deployment"]
    served = serving.model(name)
    form = _form(request)
    items = await asked.read(request, served.bundle.rule.media, TIMES)
    if not items:
        raise Invalid("items", "at least one", "none")

    items = _unique(items)

    async def rows() -> AsyncIterator[Row]:
        for at in range(0, len(items), PART):
            for row in await _answered(serving, name, items[at : at + PART]):
                yield row

    return _streamed(serving, rows(), form)


async def frames(request: Request) -> Response:
    """Answer the frames of a video file (``video/*``), or parts of ``multipart/x-mixed-replace`` as they come."""
    serving, name = _serving(request), request.path_params["deployment"]
    media = serving.model(name).bundle.rule.media
    if media != "image":
        raise Invalid("deployment", "one for images", f"{name}, for media {media}")
    form, every = _form(request), fields.whole(request, "every", 1)
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind == STREAMED.encode():
        if not (boundary := options.get(b"boundary")):
            raise Invalid("content-type", f"{STREAMED} with a boundary", "none")
        limit = serving.space.settings.max_body_bytes
        return _streamed(serving, _live(serving, name, request, boundary, every, limit), form, kind=_Duplex)
    if not kind.startswith(b"video/"):
        raise Invalid("content-type", f"video/* or {STREAMED}", kind.decode("latin-1"))
    return _streamed(serving, _film(serving, name, await request.body(), every), form)


async def _film(serving: Serving, name: str, body: bytes, every: int) -> AsyncIterator[Row]:
    """Answers for a video file's frames in the order of showing."""
    waiting: deque[asyncio.Task[Row]] = deque()
    with tempfile.TemporaryDirectory(prefix="loopworks-video-") as folder:
        path = Path(folder) / "video"
        await anyio.to_thread.run_sync(path.write_bytes, body)
        pictures = _decoded(path, every, serving.space.settings.max_image_pixels)
        try:
            async for index, time_s, content in iterate_in_threadpool(pictures):
                facts = {"frame": index, "time_s": time_s}
                waiting.append(asyncio.create_task(_framed(serving, name, content, facts)))
                if len(waiting) >= AHEAD:
                    yield await waiting.popleft()
            while waiting:
                yield await waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()
            await anyio.to_thread.run_sync(pictures.close)


def _decoded(path: Path, every: int, max_pixels: int) -> Generator[tuple[int, float | None, bytes], None, None]:
    """Frames as image files that cost nothing to write, so that the one decoder of the model's rule reads them."""
    import numpy as np
    from PIL import Image

    from loopworks.data import video

    for one in video.pictures(path, every=every, name="video", max_pixels=max_pixels):
        out = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(one.pixels)).save(out, "PPM")
        yield one.index, one.time_s, out.getvalue()


async def _live(
    serving: Serving, name: str, request: Request, boundary: bytes, every: int, limit: int
) -> AsyncIterator[Row]:
    """Answers for pictures as they arrive, each before the next is read."""
    began, index = time.perf_counter(), 0
    async for content in _parts(request, boundary, limit):
        if index % every == 0:
            facts = {"frame": index, "time_s": round(time.perf_counter() - began, 4)}
            yield await _framed(serving, name, content, facts)
        index += 1


async def _parts(request: Request, boundary: bytes, limit: int) -> AsyncIterator[bytes]:
    """The bodies of a multipart stream, each as soon as it is whole."""
    done: deque[bytes] = deque()
    part = bytearray()

    def data(chunk: bytes, start: int, end: int) -> None:
        if len(part) + end - start > limit:
            raise TooLarge(
                f"one picture must be at most {limit} bytes; got more", "raise max_body_bytes if it is wanted"
            )
        part.extend(chunk[start:end])

    def ended() -> None:
        done.append(bytes(part))
        part.clear()

    parser = MultipartParser(boundary, {"on_part_data": data, "on_part_end": ended})
    with contextlib.suppress(ClientDisconnect):
        async for chunk in request.stream():
            parser.write(chunk)
            while done:
                yield done.popleft()


async def _framed(serving: Serving, name: str, content: bytes, facts: Row) -> Row:
    (row,) = await _answered(serving, name, [Asked(f"frame {facts['frame']}", content)])
    return {**facts, **row}


async def _answered(serving: Serving, name: str, items: list[Asked]) -> list[Row]:
    """A row per item, in order: its prediction, or its problem."""
    began = time.perf_counter()
    outcome = "internal"
    try:
        found = await asked.ask(serving, await asked.pick(serving, name), items, _wait)
        outcome = "done"
    except LoopworksError as error:
        outcome = error.code
        if len(items) > 1 and error.status < 500:
            return [row for one in items for row in await _answered(serving, name, [one])]
        return [{"problem": local.problem(error, one.name).to_json()} for one in items]
    finally:
        serving.metrics.count(name, outcome, time.perf_counter() - began)
    said = {one["name"]: one for one in found.predictions()}
    wrong: dict[str, Problem] = {one.where: one for one in found.problems}
    return [said[one.name] if one.name in said else {"problem": wrong[one.name].to_json()} for one in items]


async def _wait(future: "Future[Answer]") -> Answer:
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), TIMEOUT_S)
    except TimeoutError:
        raise TimedOut(f"the model must answer within {TIMEOUT_S:g} s; got no answer", "try again later") from None


class _Duplex(StreamingResponse):
    """Begins to answer while the body still comes: Starlette's would read the body, to see whether the client left."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send; the end of the body is the end of the answer."""
        await self.stream_response(send)


def _unique(items: list[Asked]) -> list[Asked]:
    """Items whose names differ: files of a form may share one."""
    seen: Counter[str] = Counter()
    found = []
    for one in items:
        seen[one.name] += 1
        found.append(one if seen[one.name] == 1 else Asked(f"{one.name} ({seen[one.name]})", one.source))
    return found


def _streamed(
    serving: Serving, rows: AsyncIterator[Row], form: str, *, kind: type[StreamingResponse] = StreamingResponse
) -> Response:
    async def lines() -> AsyncIterator[bytes]:
        try:
            async for row in rows:
                yield _line(row, form)
                if serving.stopping.is_set():
                    return
        except LoopworksError as error:  # the answer has begun: what went wrong is its last line
            yield _line({"problem": local.problem(error, "request").to_json()}, form)

    return kind(lines(), media_type=form, headers={"Cache-Control": "no-store"})


def _line(row: Row, form: str) -> bytes:
    text = orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"data: " + text + b"\n\n" if form == EVENTS else text + b"\n"


def _form(request: Request) -> str:
    return accepted.choose(request.headers.get("accept", ""), (LINES, EVENTS))


def _serving(request: Request) -> Serving:
    found: Serving = request.app.state.serving
    return found


_BINARY = {"type": "string", "format": "binary"}
ROUTES = (
    Api(
        method="POST",
        path="/predict/{deployment}/batch",
        endpoint=batch,
        summary="Answer many items line by line",
        body=_BINARY,
        media="multipart/form-data",
        answer=LINES,
    ),
    Api(
        method="POST",
        path="/predict/{deployment}/frames",
        endpoint=frames,
        summary="Answer the frames of a video, or pictures as they come",
        query={"every": "answer each so-manyeth frame"},
        body=_BINARY,
        media="video/*",
        answer=LINES,
    ),
)
