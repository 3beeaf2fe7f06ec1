"""Edge bundles over HTTP."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from loopworks.server import answer
from loopworks.server.route import Api
from loopworks.server.serving import Serving

CHUNK = 1 << 20


def bundle(request: Request) -> Response:
    """A deployment or model as an edge bundle, in a zip."""
    space = cast(Serving, request.app.state.serving).space
    asked = request.query_params
    picked = None if asked.get("variants") == "all" else [v for v in asked.get("variants", "").split(",") if v]
    (folder := space.home.cache / "exports").mkdir(exist_ok=True)
    path = folder / f"{secrets.token_hex(8)}.zip"
    done = space.pack_edge(
        request.path_params["name"],
        path,
        variants=picked,
        is_zip=True,
        container=asked.get("container") == "true",
        kserve=asked.get("kserve") == "true",
        image=asked.get("image", ""),
    )
    headers = {
        "Content-Disposition": f'attachment; filename="{done.manifest.name}-edge.zip"',
        "Content-Length": str(done.size_bytes),
        "X-Loopworks-Key": done.manifest.key,
    }
    return StreamingResponse(_sent(path), headers=headers, media_type="application/zip")


def _sent(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while part := file.read(CHUNK):
                yield part
    finally:
        path.unlink(missing_ok=True)


def key(request: Request) -> Response:
    """The public key that edge bundles are signed with."""
    return answer.json({"key": cast(Serving, request.app.state.serving).space.edge_key()})


ROUTES = (
    Api(method="GET", path="/api/bundle-key", endpoint=key, summary="Public key of edge bundles"),
    Api(
        method="GET",
        path="/api/bundles/{name}",
        endpoint=bundle,
        summary="A deployment or model as an edge bundle",
        query={
            "variants": "names with commas between, or all; default the one that answers",
            "container": "true adds a Containerfile",
            "kserve": "true adds a KServe manifest",
            "image": "that it names",
        },
        answer="application/zip",
    ),
)
