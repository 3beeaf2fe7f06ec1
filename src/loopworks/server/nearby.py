"""Routes that take a path of the server's machine, and so serve clients on that machine alone."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from loopworks.core.errors import Denied
from loopworks.server.guard import LOOPBACK
from loopworks.server.serving import Serving


def nearby(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint, ``denied`` on a server that listens for other machines too."""

    async def guarded(request: Request) -> Response:
        serving: Serving = request.app.state.serving
        if (host := serving.space.settings.host) not in LOOPBACK:
            raise Denied(
                f"paths of the server are for clients on its own machine; got a server at {host}",
                "run the command there, or send the data itself",
            )
        return await endpoint(request)

    return guarded
