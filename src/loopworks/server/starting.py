"""A job over HTTP: 202, the job's view, and where to look for it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from loopworks.server import answer

if TYPE_CHECKING:
    from loopworks.jobs import Job


async def started(start: "Callable[[], Job]") -> Response:
    """Queue a job, and answer with it at once."""
    job = await run_in_threadpool(start)
    return answer.json({"job": job.to_json()}, 202, {"Location": f"/api/jobs/{job.id}"})
