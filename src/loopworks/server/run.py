"""Runs the server: in the foreground for ``loopworks serve``, in a thread for the demo, tests and notebooks."""

import asyncio
import errno
import gc
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

import uvicorn

from loopworks.core.errors import Conflict, Denied, Failed, Invalid
from loopworks.core.settings import Settings
from loopworks.server import connection
from loopworks.server.app import create_app
from loopworks.server.guard import LOOPBACK, Rules
from loopworks.server.serving import Serving

if TYPE_CHECKING:
    from loopworks.server.grpc_server import GrpcServer
    from loopworks.workspace import Workspace

try:
    import resource
except ImportError:  # no such limits on this system
    resource = None  # type: ignore[assignment]

SOCKETS = 65_536
SWITCH_S = 0.0005
"""After how long a thread that computes in Python lets the event loop have its turn: with the interpreter's own 5 ms
the slowest requests beside the watching thread took half as long again."""
BACKLOG = 2048
"""Connections that may wait to be let in."""
START_S = 60.0
KEEP_S = 30
"""How long an idle connection is kept for the client's next request."""


def serve(
    space: "Workspace",
    *,
    host: str | None = None,
    port: int | None = None,
    grpc_port: int | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Answer until SIGINT or SIGTERM; requests that are under way are finished first.

    Args:
        space: the workspace.
        host, port: over the settings; port 0 takes a free one.
        grpc_port: over the settings; 0 opens none.
        ready: called with the URL once the server answers.
    Raises:
        Denied: another host than loopback without a token.
        Conflict: the port is in use.
    """
    settings = _settings(space, host, port, grpc_port)
    _allow_connections()
    sys.setswitchinterval(SWITCH_S)
    with _bound(settings) as bound, closing(Serving(space)) as serving, ExitStack() as more:
        rules = Rules(settings, serving.tokens, serving.quotas)
        if settings.grpc_port:
            more.enter_context(_grpc(serving, rules))

        def started(url: str) -> None:
            gc.collect()
            gc.freeze()  # what is there now stays: collections need not go through it while requests wait
            if ready is not None:
                ready(url)

        _listen(bound)
        _Server(_config(space, rules, serving), serving, started, bound).run(sockets=[bound])


class ServerThread:
    """The server in a thread on a free port of 127.0.0.1, as a context manager."""

    def __init__(self, space: "Workspace", *, grpc: bool = False) -> None:
        """Serve ``space``; with ``grpc`` on a second free port too."""
        self._space = space
        self._has_grpc = grpc
        self._closing = ExitStack()
        self.url = ""
        """Where it answers, once entered."""
        self.grpc = ""
        """Where it answers over gRPC: HOST:PORT."""

    def __enter__(self) -> Self:
        """Start, and wait until it answers."""
        settings = _settings(self._space, "127.0.0.1", 0, 0)
        with ExitStack() as opened:
            bound = opened.enter_context(_bound(settings))
            self.serving = opened.enter_context(closing(Serving(self._space)))
            rules = Rules(settings, self.serving.tokens, self.serving.quotas)
            if self._has_grpc:
                self.grpc = opened.enter_context(_grpc(self.serving, rules)).address
            started = threading.Event()

            def ready(url: str) -> None:
                self.url = url
                started.set()

            _listen(bound)
            server = _Server(_config(self._space, rules, self.serving), self.serving, ready, bound)

            def run() -> None:
                try:
                    server.run(sockets=[bound])
                finally:
                    started.set()

            thread = threading.Thread(target=run, name="server", daemon=True)
            thread.start()
            opened.callback(thread.join)
            opened.callback(setattr, server, "should_exit", True)
            if not started.wait(START_S) or not self.url:
                raise Failed("the server must start; it ended before it answered", "its log says more")
            self._closing = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what is under way and stop."""
        self._closing.close()


class _Server(uvicorn.Server):
    """Uvicorn, which says when it answers, ends streams before it waits for them, and leaves signals to its caller."""

    def __init__(
        self, config: uvicorn.Config, serving: Serving, ready: Callable[[str], None] | None, bound: socket.socket
    ) -> None:
        super().__init__(config)
        self._serving = serving
        self._ready = ready
        self._bound = bound

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        if self._ready is not None and not self.should_exit:
            host, port = self._bound.getsockname()[:2]
            self._ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let streams end, take in who has connected already, then finish what is under way."""
        self._serving.stopping.set()
        await self._close_door()
        await super().shutdown(sockets)

    async def _close_door(self) -> None:
        """Listen no more. Who waits to be let in has perhaps sent a request, which closing alone would throw away."""
        loop = asyncio.get_running_loop()
        waiting: list[socket.socket] = []
        with suppress(OSError):  # nobody waits, or no more may be open
            while True:
                waiting.append(self._bound.accept()[0])
        for server in self.servers:
            server.close()
        kind: Callable[..., connection.Connection] = self.config.http_protocol_class  # type: ignore[assignment]
        made = partial(kind, self.config, self.server_state, self.lifespan.state)
        for one in waiting:
            await loop.connect_accepted_socket(made, one)
        await asyncio.sleep(0)  # for those whom the loop was letting in itself

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT, SIGTERM and a terminal that goes (unless ``nohup`` says that it may) end the server; Uvicorn would
        raise them again when it is done."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ends = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            ends.append(signal.SIGHUP)
        before = {number: signal.signal(number, self.handle_exit) for number in ends}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _grpc(serving: Serving, rules: Rules) -> "GrpcServer":
    from loopworks.server.grpc_server import GrpcServer  # a quarter of a second that only those pay who want it

    return GrpcServer(serving, rules)


def _settings(space: "Workspace", host: str | None, port: int | None, grpc_port: int | None) -> Settings:
    given = {"host": host, "port": port, "grpc_port": grpc_port}
    settings = space.settings.model_copy(update={k: v for k, v in given.items() if v is not None})
    if settings.host not in LOOPBACK and not settings.token and not space.tokens():
        raise Denied(
            f"a server on {settings.host} must have a token; got none",
            "loopworks token add makes one; or set token in loopworks.toml or LOOPWORKS_TOKEN; or bind 127.0.0.1",
        )
    return settings


def _config(space: "Workspace", rules: Rules, serving: Serving) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(space, rules.settings, serving, rules),
        log_config=None,
        access_log=False,
        proxy_headers=False,  # limits go by the address that really asks
        lifespan="on",
        http=connection.bound(serving, rules, serving.telling),
        ws="none",
        timeout_keep_alive=KEEP_S,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=10,
    )


def _allow_connections() -> None:
    """Let this process have as many sockets as it may ask for: the usual 1,024 are few for a server."""
    if resource is not None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = SOCKETS if hard == resource.RLIM_INFINITY else min(hard, SOCKETS)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _bound(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
    except OSError as error:
        bound.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise _taken(settings.host, settings.port, error) from None
        raise Invalid("host", "an address of this machine", settings.host) from None
    return bound


def _listen(bound: socket.socket) -> None:
    """Take the port. Until somebody listens others may bind it too, such as a second server that loads meanwhile."""
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        host, port = bound.getsockname()[:2]
        raise _taken(host, port, error) from None


def _taken(host: str, port: int, error: OSError) -> Conflict:
    return Conflict(f"port {port} of {host} must be free; got: {error.strerror}", "--port 0 takes a free one")
