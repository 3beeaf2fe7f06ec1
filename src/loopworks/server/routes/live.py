"""Batches and live pipelines over HTTP, and the picture of a pipeline."""

import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from loopworks.core.errors import Busy, NotFound
from loopworks.server import answer
from loopworks.server.fields import flag, mapping, text
from loopworks.server.nearby import nearby
from loopworks.server.route import Api, text_schema
from loopworks.server.starting import started

if TYPE_CHECKING:
    from loopworks.infer.live.preview import Preview
    from loopworks.server.live import Pipelines
    from loopworks.server.serving import Serving
    from loopworks.workspace import Workspace


def _space(request: Request) -> "Workspace":
    serving: Serving = request.app.state.serving
    return serving.space


async def score(request: Request) -> Response:
    """Score a source that lies on the server's disk, as a job."""
    body = await answer.body(request)
    name, source, out = (text(body, field) for field in ("name", "source", "out"))
    return await started(lambda: _space(request).score_files_job(name, source, out=out))


async def add(request: Request) -> Response:
    """Keep a pipeline: ``{"definition": {...}, "start": true, "replace": false}``."""
    body = await answer.body(request)
    definition = mapping(body, "definition")
    start = flag({"start": True, **body}, "start")
    told = await run_in_threadpool(
        lambda: _space(request).live.add(definition, start=start, replace=flag(body, "replace"))
    )
    return answer.json({"pipeline": told}, 201)


def ls(request: Request) -> Response:
    """The status of each pipeline."""
    return answer.json({"pipelines": _space(request).live.list()})


def status(request: Request) -> Response:
    """How a pipeline goes."""
    return answer.json({"pipeline": _space(request).live.status(request.path_params["name"])})


def start(request: Request) -> Response:
    """Let a pipeline run."""
    return answer.json({"pipeline": _space(request).live.start(request.path_params["name"])})


def stop(request: Request) -> Response:
    """Let a pipeline run no longer."""
    return answer.json({"pipeline": _space(request).live.stop(request.path_params["name"])})


def remove(request: Request) -> Response:
    """Stop and forget a pipeline."""
    pipelines: Pipelines = request.app.state.pipelines
    name = request.path_params["name"]
    _space(request).live.stop(name)
    pipelines.sync()
    _space(request).live.remove(name)
    return answer.json({"removed": name})


def _preview(request: Request) -> "Preview":
    pipelines: Pipelines = request.app.state.pipelines
    return pipelines.runner(request.path_params["name"]).preview


def picture(request: Request) -> Response:
    """The newest frame with what was found in it."""
    _, data = _preview(request).latest()
    return Response(data, media_type="image/jpeg", headers={"Cache-Control": "no-store"})


async def preview(request: Request) -> Response:
    """The frames with what was found in them, one JPEG after another, as browsers show it in an ``img``."""
    found = await run_in_threadpool(_preview, request)  # it reads a file, and may wait
    found.check()  # before the answer begins: one viewer too many gets a clear error
    serving: Serving = request.app.state.serving

    async def parts() -> AsyncIterator[bytes]:
        number, part, is_shown = 0, b"", True
        # NotFound: the pipeline has ended. Busy: others were quicker. The answer has begun, so it just ends.
        with suppress(NotFound, Busy), found.watching():
            yield b"--frame\r\n"
            while not serving.stopping.is_set() and not await request.is_disconnected():
                began = time.monotonic()
                newer = await run_in_threadpool(found.after, number, 0.5)
                if newer is not None:
                    number, data = newer
                    head = f"Content-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    part, is_shown = head.encode() + data + b"\r\n--frame\r\n", False
                    yield part
                    await anyio.sleep(max(0.0, 1 / found.settings.rate - (time.monotonic() - began)))
                elif not is_shown:  # Chromium shows a picture when the next one comes: where none does, it comes again
                    is_shown = True
                    yield part

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(parts(), media_type="multipart/x-mixed-replace; boundary=frame", headers=headers)


_NAME = "/api/live/{name}"
ROUTES = (
    Api(method="GET", path="/api/live", endpoint=ls, summary="All pipelines"),
    Api(
        method="POST",
        path="/api/live",
        endpoint=nearby(add),
        summary="Keep a pipeline",
        body={
            "type": "object",
            "properties": {
                "definition": {"type": "object", "description": "see docs/live.md"},
                "start": {"type": "boolean", "description": "whether it shall run; true where it is left out"},
                "replace": {"type": "boolean", "description": "take the place of one with the same name"},
            },
            "required": ["definition"],
        },
        status=201,
    ),
    Api(method="GET", path=_NAME, endpoint=status, summary="How a pipeline goes"),
    Api(method="DELETE", path=_NAME, endpoint=remove, summary="Stop and forget a pipeline"),
    Api(method="POST", path=f"{_NAME}/start", endpoint=start, summary="Let a pipeline run"),
    Api(method="POST", path=f"{_NAME}/stop", endpoint=stop, summary="Let a pipeline run no longer"),
    Api(
        method="GET",
        path=f"{_NAME}/picture",
        endpoint=picture,
        summary="The newest frame, drawn",
        answer="image/jpeg",
    ),
    Api(
        method="GET",
        path=f"{_NAME}/preview",
        endpoint=preview,
        summary="Drawn frames as MJPEG",
        answer="multipart/x-mixed-replace",
    ),
    Api(
        method="POST",
        path="/api/score",
        endpoint=nearby(score),
        summary="Ask a model about every item of a source, as a job",
        body=text_schema(
            name="a deployment or a model",
            source="a dataset, or a folder or file on the server's disk",
            out="new folder, or new file that ends in .parquet or .csv, on the server's disk",
        ),
        status=202,
    ),
)
