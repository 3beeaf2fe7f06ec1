"""Batches over HTTP."""

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from loopworks.server import answer
from loopworks.server.fields import text
from loopworks.server.nearby import nearby
from loopworks.server.route import Api, text_schema
from loopworks.server.starting import started

if TYPE_CHECKING:
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


ROUTES = (
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
