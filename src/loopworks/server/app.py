"""The ASGI application: guard, routes, errors."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loopworks.core.errors import LoopworksError
from loopworks.core.settings import Settings
from loopworks.data.preparing import Preparer
from loopworks.server import answer, openapi
from loopworks.server.guard import Guard
from loopworks.server.live import Pipelines
from loopworks.server.route import Api
from loopworks.server.routes import (
    clean,
    events,
    formats,
    items,
    live,
    look,
    models,
    page,
    predict,
    protocol,
    space,
    split,
    table,
    versions,
)
from loopworks.server.serving import Serving

if TYPE_CHECKING:
    from loopworks.workspace import Workspace


def document(request: Request) -> Response:
    """This server's OpenAPI document."""
    return answer.json(openapi.describe(ROUTES))


ROUTES: tuple[Api, ...] = (
    *protocol.ROUTES,
    *predict.ROUTES,
    *space.ROUTES,
    *models.ROUTES,
    *split.ROUTES,
    *table.ROUTES,
    *clean.ROUTES,
    *formats.ROUTES,
    *live.ROUTES,
    *look.ROUTES,
    *versions.ROUTES,
    *items.ROUTES,
    *events.ROUTES,
    Api(method="GET", path="/openapi.json", endpoint=document, summary="This document"),
    *page.ROUTES,
)


def create_app(workspace: "Workspace", settings: Settings | None = None, serving: Serving | None = None) -> Starlette:
    """The server of a workspace.

    Args:
        workspace: what is served; the caller closes it after the application has ended.
        settings: with the host and token in force; default the workspace's own.
        serving: the loaded deployments, which the caller closes; default the application loads and closes them.
    """

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        app.state.serving = serving or Serving(workspace)
        app.state.pipelines = Pipelines(app.state.serving)
        preparer = Preparer(workspace.home)
        try:
            yield
        finally:
            preparer.close()
            app.state.pipelines.close()
            if serving is None:
                app.state.serving.close()

    return Starlette(
        routes=[Route(api.path, api.endpoint, methods=[api.method]) for api in ROUTES],
        middleware=[Middleware(Guard, settings=settings or workspace.settings)],
        exception_handlers={LoopworksError: answer.handle, HTTPException: answer.handle},
        lifespan=life,
    )
