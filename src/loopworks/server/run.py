"""Runs the server: in the foreground for ``loopworks serve``, in a thread for the demo, tests and notebooks."""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

import uvicorn
from starlette.applications import Starlette

from loopworks.core.errors import Conflict, Denied, Failed, Invalid
from loopworks.core.settings import Settings
from loopworks.server.app import create_app
from loopworks.server.guard import LOOPBACK

if TYPE_CHECKING:
    from loopworks.workspace import Workspace

START_S = 60.0


def serve(
    space: "Workspace", *, host: str | None = None, port: int | None = None, ready: Callable[[str], None] | None = None
) -> None:
    """Answer until SIGINT or SIGTERM; requests that are under way are finished first.

    Args:
        space: the workspace.
        host, port: over the settings; port 0 takes a free one.
        ready: called with the URL once the server answers.
    Raises:
        Denied: another host than loopback without a token.
        Conflict: the port is in use.
    """
    settings = _settings(space, host, port)
    with _bound(settings) as bound:
        server = _Server(_config(space, settings), ready, bound)
        server.run(sockets=[bound])


class ServerThread:
    """The server in a thread on a free port of 127.0.0.1, as a context manager."""

    def __init__(self, space: "Workspace") -> None:
        """Serve ``space``."""
        self._space = space
        self.url = ""
        """Where it answers, once entered."""

    def __enter__(self) -> Self:
        """Start, and wait until it answers."""
        settings = _settings(self._space, "127.0.0.1", 0)
        self._socket = _bound(settings)
        started = threading.Event()

        def ready(url: str) -> None:
            self.url = url
            started.set()

        self._server = _Server(_config(self._space, settings), ready, self._socket)
        self._thread = threading.Thread(target=self._run, args=(started,), name="server", daemon=True)
        self._thread.start()
        if not started.wait(START_S) or not self.url:
            self.__exit__(None, None, None)
            raise Failed("the server must start; it ended before it answered", "its log says more")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what is under way and stop."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def _run(self, started: threading.Event) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            started.set()


class _Server(uvicorn.Server):
    """Uvicorn, which says when it answers, ends streams before it waits for them, and leaves signals to its caller."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[str], None] | None, bound: socket.socket) -> None:
        super().__init__(config)
        self._ready = ready
        self._bound = bound

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        if self._ready is not None and not self.should_exit:
            host, port = self._bound.getsockname()[:2]
            self._ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let streams end, then finish what is under way."""
        application: Starlette = self.config.app  # type: ignore[assignment]
        application.state.serving.stopping.set()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the server; Uvicorn would raise them again when it is done."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _settings(space: "Workspace", host: str | None, port: int | None) -> Settings:
    given = {"host": host, "port": port}
    settings = space.settings.model_copy(update={k: v for k, v in given.items() if v is not None})
    if settings.host not in LOOPBACK and not settings.token:
        raise Denied(
            f"a server on {settings.host} must have a token; got none",
            "set token in loopworks.toml or LOOPWORKS_TOKEN, or bind 127.0.0.1",
        )
    return settings


def _config(space: "Workspace", settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(space, settings),
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=10,
    )


def _bound(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
    except socket.gaierror:
        bound.close()
        raise Invalid("host", "an address of this machine", settings.host) from None
    except OSError as error:
        bound.close()
        raise Conflict(
            f"port {settings.port} of {settings.host} must be free; got: {error.strerror}", "--port 0 takes a free one"
        ) from None
    return bound
