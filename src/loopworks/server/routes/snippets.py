"""How to ask a deployment, as lines to paste."""

import re

from starlette.requests import Request
from starlette.responses import Response

from loopworks.infer import snippets
from loopworks.server import answer
from loopworks.server.route import Api
from loopworks.server.serving import Serving


def write(request: Request) -> Response:
    """Programs that ask a deployment, by language."""
    serving: Serving = request.app.state.serving
    served = serving.model(request.path_params["deployment"])
    settings = serving.space.settings
    host = request.headers.get("host", "")
    if not re.fullmatch(r"[\w.:\[\]-]+", host, re.ASCII):  # it becomes part of a program
        host = f"127.0.0.1:{settings.port}"
    found = snippets.write(
        served.name,
        served.bundle,
        url=f"{request.scope['scheme']}://{host}",
        grpc=serving.grpc_address,
        has_token=bool(settings.token),
    )
    return answer.json({"deployment": served.name, "snippets": found})


ROUTES = (
    Api(
        method="GET",
        path="/api/snippets/{deployment}",
        endpoint=write,
        summary="Programs that ask a deployment: curl, Python, JavaScript, tritonclient",
    ),
)
