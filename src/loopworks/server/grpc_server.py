"""The gRPC port: threads, limits, who may ask, and one place where an error becomes a status.

Synchronous, because that was measured faster in Python than ``grpc.aio``; HTTP is several times faster than both.
"""

import logging
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

from loopworks.core.errors import Conflict, Invalid, LoopworksError, Missing, Unsupported
from loopworks.server import grpc_paths
from loopworks.server.grpc_service import Health, Inference
from loopworks.server.guard import Rules
from loopworks.server.serving import Serving

log = logging.getLogger(__name__)
THREADS = 96
"""Calls at once: the streams, those who watch, and more single requests than a batch has, so that batches fill."""
STREAMS = 32
"""Open streams at once: each keeps a thread as long as it is open."""
WATCHERS = 16
"""Clients that watch the server's health at once."""
GRACE_S = 10.0
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""HTTP status of an error -> gRPC's; any other is INTERNAL."""

Call = Callable[[Any, grpc.ServicerContext], Any]


class GrpcServer:
    """The inference protocol and gRPC's own health service on a port of their own, as a context manager."""

    def __init__(self, serving: Serving, rules: Rules) -> None:
        """Answer those whom ``rules`` let in.

        Bind ``settings.host``, ``settings.grpc_port`` (here 0 takes a free port); start on entering.

        Raises: Conflict: the port is in use, or cannot be bound.
        """
        self._rules = rules
        settings = rules.settings
        self._health = Health(serving.stopping, WATCHERS)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="grpc")
        self._server = grpc.server(
            self._threads,
            handlers=[
                self._handlers("inference.GRPCInferenceService", Inference(serving, STREAMS, self._admit)),
                self._handlers("grpc.health.v1.Health", self._health),
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
        for name, (request, response, call) in methods.unary().items():
            made[name] = grpc.unary_unary_rpc_method_handler(
                self._answering(name, call), _reader(request), response.SerializeToString
            )
        for name, (request, response, call) in methods.streams().items():
            kind = (
                grpc.stream_stream_rpc_method_handler
                if name == "ModelStreamInfer"
                else grpc.unary_stream_rpc_method_handler
            )
            made[name] = kind(self._streaming(name, call), _reader(request), response.SerializeToString)
        return grpc.method_handlers_generic_handler(service, made)

    def _answering(self, name: str, call: Call) -> Call:
        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                self._check(request)
                if name != "ModelInfer":  # which every way to it does itself
                    self._admit(context, *grpc_paths.same(name, request))
                return call(request, context)
            except Exception as error:  # the top of a request: whatever it is, the client gets one clear answer
                return _fail(context, name, error)

        return answer

    def _streaming(self, name: str, call: Call) -> Call:
        def answer(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            try:
                self._check(requests)
                self._admit(context, *grpc_paths.same(name, requests))
                yield from call(requests, context)
            except Exception as error:  # the top of a request, as above
                _fail(context, name, error)

        return answer

    @staticmethod
    def _check(request: Any) -> None:
        if isinstance(request, Invalid):
            raise request

    def _admit(self, context: grpc.ServicerContext, method: str, path: str) -> None:
        """Let a call pass that asks what this HTTP request would."""
        given = dict(context.invocation_metadata()).get("authorization", "")
        self._rules.admitted(given if isinstance(given, str) else "", method, path, _address(context.peer()))


def _reader(kind: Any) -> Callable[[bytes], Any]:
    """Reads a message; what is none becomes the error that says so, as gRPC would log a fault of ours."""

    def read(data: bytes) -> Any:
        try:
            return kind.FromString(data)
        except DecodeError as error:
            return Invalid("message", f"a {kind.DESCRIPTOR.name}", str(error) or f"{len(data)} other bytes")

    return read


def _address(peer: str) -> str:
    """``ipv4:192.0.2.1:5000`` or ``ipv6:[::1]:5000`` without kind and port."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")


def _fail(context: grpc.ServicerContext, name: str, error: Exception) -> None:
    """End the call with the error's status; never returns, as ``abort`` raises."""
    if not isinstance(error, LoopworksError):
        mark = uuid.uuid4().hex[:8]
        log.error("request failed id=%s method=%s", mark, name, exc_info=error)
        context.abort(grpc.StatusCode.INTERNAL, f"internal error {mark} (the server's log says more)")
        return
    hint = f" ({error.hint})" if error.hint else ""
    status = CODES.get(error.status, grpc.StatusCode.INTERNAL)
    context.abort(
        grpc.StatusCode.UNIMPLEMENTED if isinstance(error, Missing | Unsupported) else status, error.message + hint
    )
