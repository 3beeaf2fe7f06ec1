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
from loopworks.server.guard import Guard, Rules
from loopworks.server.inferring import Inferring
from loopworks.server.live import Pipelines
from loopworks.server.quotas import Quotas
from loopworks.server.route import Api
from loopworks.server.routes import (
    access,
    bundle,
    chains,
    clean,
    deployments,
    events,
    formats,
    items,
    live,
    look,
    models,
    page,
    predict,
    protocol,
    snippets,
    space,
    split,
    stream,
    table,
    versions,
    watch,
)
from loopworks.server.serving import Serving
from loopworks.server.telling import Telling
from loopworks.server.tokens import Tokens

if TYPE_CHECKING:
    from loopworks.workspace import Workspace


def document(request: Request) -> Response:
    """This server's OpenAPI document."""
    return answer.json(openapi.describe(ROUTES))


ROUTES: tuple[Api, ...] = (
    *protocol.ROUTES,
    *predict.ROUTES,
    *stream.ROUTES,
    *snippets.ROUTES,
    *space.ROUTES,
    *deployments.ROUTES,
    *access.ROUTES,
    *models.ROUTES,
    *bundle.ROUTES,
    *chains.ROUTES,
    *split.ROUTES,
    *table.ROUTES,
    *clean.ROUTES,
    *formats.ROUTES,
    *live.ROUTES,
    *look.ROUTES,
    *versions.ROUTES,
    *items.ROUTES,
    *watch.ROUTES,
    *events.ROUTES,
    Api(method="GET", path="/openapi.json", endpoint=document, summary="This document"),
    *page.ROUTES,
)


def create_app(
    workspace: "Workspace",
    settings: Settings | None = None,
    serving: Serving | None = None,
    rules: Rules | None = None,
) -> Starlette:
    """The server of a workspace.

    Args:
        workspace: what is served; the caller closes it after the application has ended.
        settings: with the host and token in force; default the workspace's own.
        serving: the loaded deployments, which the caller closes; default the application loads and closes them.
        rules: who may ask what, where others than the application go by them too; default by ``settings``.
    """

    settings = settings or workspace.settings
    tokens = serving.tokens if serving else Tokens(workspace, settings.token)
    telling = serving.telling if serving else Telling(settings)
    quotas = serving.quotas if serving else Quotas(settings)

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        app.state.serving = serving or Serving(workspace, tokens, telling, quotas)
        app.state.inferring = Inferring(app.state.serving)
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
        middleware=[Middleware(Guard, rules=rules or Rules(settings, tokens, quotas), telling=telling)],
        exception_handlers={LoopworksError: answer.handle, HTTPException: answer.handle},
        lifespan=life,
    )
