"""OpenTelemetry: a span for each request, with decode, queue and compute below it.

Where spans go, how many are kept and what the service is called, the standard variables (OTEL_*) say; the
OpenTelemetry packages read them themselves. A client's ``traceparent`` (W3C) makes our span a child of its own.
"""

import time
from typing import TYPE_CHECKING, Any

from loopworks.core.errors import Missing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

    from loopworks.server.telling import Note

PARTS = ("decode", "queue", "compute")


class Tracing:
    """Makes spans of requests that have ended, so that a request waits for none of it."""

    def __init__(self, processor: "SpanProcessor | None" = None) -> None:
        """Send spans by ``processor``; default in batches over OTLP/HTTP.

        Raises: Missing: OpenTelemetry is not installed.
        """
        try:
            from opentelemetry import trace
            from opentelemetry.sdk.resources import SERVICE_NAME, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            if processor is None:
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
                from opentelemetry.sdk.trace.export import BatchSpanProcessor

                processor = BatchSpanProcessor(OTLPSpanExporter())
        except ImportError:
            raise Missing("opentelemetry-sdk", "telemetry", "the setting tracing") from None
        resource = Resource.create()
        if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "loopworks"}))
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("loopworks")
        self._context = TraceContextTextMapPropagator()
        self._trace: Any = trace
        self._zero_ns = time.time_ns() - time.perf_counter_ns()

    def add(self, note: "Note") -> None:
        """Make the spans of a request that has ended."""
        trace = self._trace
        parent = self._context.extract({name: note.headers[name] for name in _CARRIED if name in note.headers})
        facts: dict[str, str | int] = {
            **(_of_grpc(note) if note.code else _of_http(note)),
            "client.address": note.address,
            "loopworks.request_id": note.id,
            "loopworks.model": note.model,
            "loopworks.token": note.who.name,
        }
        span = self._tracer.start_span(
            _name(note),
            context=parent,
            kind=trace.SpanKind.SERVER,
            start_time=self._zero_ns + note.began_ns,
            attributes={name: value for name, value in facts.items() if value != ""},
        )
        if note.status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        if span.is_recording() and note.model:
            at = note.began_ns
            below = trace.set_span_in_context(span, parent)
            for name, took_ns in zip(PARTS, note.parts_ns, strict=True):
                child = self._tracer.start_span(name, context=below, start_time=self._zero_ns + at)
                at += took_ns
                child.end(self._zero_ns + at)
        span.end(self._zero_ns + note.ended_ns)

    def close(self) -> None:
        """Send what is left; closing twice is harmless."""
        self._provider.shutdown()


_CARRIED = ("traceparent", "tracestate")
_GRPC_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
"""By their numbers."""


def _of_http(note: "Note") -> dict[str, str | int]:
    return {
        "http.request.method": note.method,
        "url.path": note.path,
        "http.response.status_code": note.status,
        "http.response.body.size": note.size_bytes,
    }


def _of_grpc(note: "Note") -> dict[str, str | int]:
    service, _, method = note.path.strip("/").partition("/")
    code = _GRPC_CODES.index(note.code)
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method, "rpc.grpc.status_code": code}


def _name(note: "Note") -> str:
    """What is asked, without names of items: a name of a span must not take a thousand values."""
    if note.code:
        return note.path.strip("/")
    parts = note.path.split("/")
    kept = 4 if parts[1:3] == ["v2", "models"] else 3
    return f"{note.method} {'/'.join(parts[:kept])}"
