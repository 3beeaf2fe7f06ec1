"""The gRPC port: threads, limits, who may ask, and one place where an error becomes a status.

Synchronous, because that was measured faster in Python than ``grpc.aio``; HTTP is several times faster than both.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import DecodeError

from loopworks.core.errors import Conflict, Invalid, MethodNotAllowed
from loopworks.server import grpc_paths
from loopworks.server.grpc_calls import Call, Count
from loopworks.server.grpc_service import Health, Inference
from loopworks.server.guard import Rules
from loopworks.server.serving import Serving
from loopworks.server.telling import Note

log = logging.getLogger(__name__)
THREADS = 96
"""Calls at once: the streams, those who watch, and more single requests than a batch has, so that batches fill."""
STREAMS = 32
"""Open streams at once: each keeps a thread as long as it is open."""
WATCHERS = 16
"""Clients that watch the server's health at once."""
GRACE_S = 10.0
Method = Callable[[Any, Call], Any]


class GrpcServer:
    """The inference protocol and gRPC's own health service on a port of their own, as a context manager."""

    def __init__(self, serving: Serving, rules: Rules) -> None:
        """Answer those whom ``rules`` let in.

        Bind ``settings.host``, ``settings.grpc_port`` (here 0 takes a free port); start on entering.

        Raises: Conflict: the port is in use, or cannot be bound.
        """
        self._rules = rules
        self._telling, self._count = serving.telling, serving.metrics.count_grpc
        settings = rules.settings
        self._health = Health(serving.stopping, WATCHERS)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="grpc")
        self._server = grpc.server(
            self._threads,
            handlers=[
                self._handlers("inference.GRPCInferenceService", Inference(serving, STREAMS, self._admit)),
                self._handlers("grpc.health.v1.Health", self._health),
                _Others(self._other),
            ],
            options=[
                ("grpc.max_receive_message_length", settings.max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ],
        )
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            port = self._server.add_insecure_port(f"{host}:{settings.grpc_port}")
        except RuntimeError:
            raise Conflict(
                f"port {settings.grpc_port} of {settings.host} must be free for gRPC; got one that cannot be bound",
                "set grpc_port to another",
            ) from None
        self.address = f"{host}:{port}"
        """What a client is told."""
        serving.grpc_address = self.address

    def __enter__(self) -> Self:
        """Answer."""
        self._server.start()
        log.info("grpc answers address=%s", self.address)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what is under way and stop."""
        self._health.close()
        self._server.stop(GRACE_S).wait()
        self._threads.shutdown()

    def _handlers(self, service: str, methods: Inference | Health) -> grpc.GenericRpcHandler:
        made = {}
        for name, (request, call) in methods.unary().items():
            made[name] = grpc.unary_unary_rpc_method_handler(self._answering(service, name, call), _reader(request))
        for name, (request, call) in methods.streams().items():
            is_both = name == "ModelStreamInfer"
            kind = grpc.stream_stream_rpc_method_handler if is_both else grpc.unary_stream_rpc_method_handler
            made[name] = kind(self._streaming(service, name, call), _reader(request))
        return grpc.method_handlers_generic_handler(service, made)

    def _answering(self, service: str, name: str, method: Method) -> Callable[[Any, grpc.ServicerContext], bytes]:
        def answer(request: Any, context: grpc.ServicerContext) -> bytes:
            call = Call(context, service, name, self._telling, self._count)
            try:
                self._check(request)
                if name != "ModelInfer":  # which every way to it does itself
                    self._admit(call.note, *grpc_paths.same(name, request))
                found: bytes = method(request, call).SerializeToString()
                call.note.size_bytes = len(found)
                call.done()
                return found
            except Exception as error:  # the top of a request: whatever it is, the client gets one clear answer
                call.fail(error)
            finally:
                call.tell()

        return answer

    def _streaming(
        self, service: str, name: str, method: Method
    ) -> Callable[[Any, grpc.ServicerContext], Iterator[bytes]]:
        def answer(requests: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
            call = Call(context, service, name, self._telling, self._count)
            try:
                self._check(requests)
                self._admit(call.note, *grpc_paths.same(name, requests))
                for found in method(requests, call):
                    call.note.size_bytes += len(found)
                    yield found
                call.done()
            except Exception as error:  # the top of a request, as above
                call.fail(error)
            finally:
                call.tell()

        return answer

    def _other(self, path: str, context: grpc.ServicerContext) -> Iterator[bytes]:
        """Refuse a call of what is not here, as HTTP does: after it is known who asks."""
        call = Call(context, *path.strip("/").partition("/")[::2], self._telling, _unknown(self._count))
        try:
            self._admit(call.note, "GET", "/v2")
            raise MethodNotAllowed(f"method must be one of the services {', '.join(Health.SERVICES[1:])}; got {path}")
        except Exception as error:  # the top of a request, as above
            call.fail(error)
        finally:
            call.tell()
        yield b""

    @staticmethod
    def _check(request: Any) -> None:
        if isinstance(request, Invalid):
            raise request

    def _admit(self, note: Note, method: str, path: str) -> None:
        """Let a call pass that asks what this HTTP request would."""
        note.who = self._rules.admitted(note.headers.get("authorization", ""), method, path, note.address)


class _Others(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Takes what no service does, whichever way it streams."""

    def __init__(self, refuse: Callable[[str, grpc.ServicerContext], Iterator[bytes]]) -> None:
        self._refuse = refuse

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """A handler that refuses the call."""
        path = details.method
        return grpc.stream_stream_rpc_method_handler(lambda requests, context: self._refuse(path, context))


def _unknown(count: Count) -> Count:
    """Counts under one name what clients make up, as a label must not take a thousand values."""
    return lambda name, code, seconds: count("unknown", code, seconds)


def _reader(kind: Any) -> Callable[[bytes], Any]:
    """Reads a message; what is none becomes the error that says so, as gRPC would log a fault of ours."""

    def read(data: bytes) -> Any:
        try:
            return kind.FromString(data)
        except DecodeError as error:
            return Invalid("message", f"a {kind.DESCRIPTOR.name}", str(error) or f"{len(data)} other bytes")

    return read
