"""The page at ``/``: the workspace at a glance, and a form that tries an image on a deployment."""

from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

from loopworks.server.route import Api

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_TYPES = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}


@cache
def _file(name: str) -> bytes:
    return files("loopworks.server").joinpath("page", name).read_bytes()


def _answer(name: str) -> Response:
    headers = {
        "Content-Security-Policy": _POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    return Response(_file(name), headers=headers, media_type=_TYPES[name])


async def page(request: Request) -> Response:
    """The page."""
    return _answer("page.html")


async def style(request: Request) -> Response:
    """Its style."""
    return _answer("page.css")


async def script(request: Request) -> Response:
    """Its script."""
    return _answer("page.js")


ROUTES = (
    Api(method="GET", path="/", endpoint=page, summary="The workspace page", answer="text/html"),
    Api(method="GET", path="/page.css", endpoint=style, summary="Style of the page", answer="text/css"),
    Api(method="GET", path="/page.js", endpoint=script, summary="Script of the page", answer="text/javascript"),
)
