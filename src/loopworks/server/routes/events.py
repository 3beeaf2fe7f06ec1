"""A job's progress as server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from loopworks.server.route import Api
from loopworks.server.serving import Serving

if TYPE_CHECKING:
    from loopworks.jobs import Job

LOOK_S = 0.25
BEAT_S = 15.0
"""An idle stream says something this often, so that nobody between us cuts it."""


async def events(request: Request) -> Response:
    """A job's progress as server-sent events, until it ends."""
    serving: Serving = request.app.state.serving
    first = await run_in_threadpool(serving.space.jobs.get, request.path_params["job"])
    return StreamingResponse(
        _stream(serving, first), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _stream(serving: Serving, job: "Job") -> AsyncIterator[bytes]:
    """One event per change. The job is looked at, not followed, so a reader that goes away leaves nothing behind."""
    told: Job | None = None
    quiet_s = 0.0
    while not serving.stopping.is_set():
        if job != told:
            told, quiet_s = job, 0.0
            yield b"data: " + orjson.dumps(job.to_json(), default=str) + b"\n\n"
        if job.is_ended:
            return
        if quiet_s >= BEAT_S:
            quiet_s = 0.0
            yield b": still running\n\n"
        await asyncio.sleep(LOOK_S)
        quiet_s += LOOK_S
        job = await run_in_threadpool(serving.space.jobs.get, job.id)


ROUTES = (
    Api(
        method="GET",
        path="/api/jobs/{job}/events",
        endpoint=events,
        summary="A job's progress",
        answer="text/event-stream",
    ),
)
