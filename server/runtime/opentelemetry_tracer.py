"""Makes spans by OpenTelemetry: it implements the port `server/core/tracing.py`.

Contexts are passed explicitly, since an insert has many requests. No exception is recorded in a span: its text may
quote a key or an event.
"""

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from time import time_ns

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from server.core.errors import ConfigurationError
from server.core.tracing import Attributes, Span, TraceParent, Tracer
from server.runtime.span_export import flush, make_exporter, silence_libraries
from storage.indexes import EVENTS

INSERT = {"db.system.name": "mongodb", "db.collection.name": EVENTS, "db.operation.name": "insert"}
"""The attributes of each insert, by the semantic conventions for databases."""

NO_PARENT = Context()


class RecordedSpan(Span):
    """A span of a request."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self.own = span
        self.context = trace.set_span_in_context(span, NO_PARENT)
        self.trace_id = trace.format_trace_id(span.get_span_context().trace_id)

    def add_step(self, name: str, duration_ns: int, attributes: Attributes | None = None) -> None:
        """See `Span`."""
        ended_ns = time_ns()
        step = self._tracer.start_span(name, self.context, attributes=attributes, start_time=ended_ns - duration_ns)
        step.end(ended_ns)

    def end(self, attributes: Attributes, error: str | None) -> None:
        """See `Span`."""
        self.own.set_attributes(attributes)
        if error is not None:
            fail(self.own, error)
        self.own.end()


class OpenTelemetryTracer(Tracer):
    """The tracer of a process. Spans that are sampled go to `processor`."""

    def __init__(self, processor: SpanProcessor, resource: Resource) -> None:
        self._processor = processor
        provider = TracerProvider(
            resource=resource, shutdown_on_exit=False
        )  # its sampler is that of OTEL_TRACES_SAMPLER
        provider.add_span_processor(processor)
        self._tracer = provider.get_tracer("sluice", version("sluice"))

    def start_request(self, name: str, parent: TraceParent | None, attributes: Attributes) -> Span | None:
        """See `Tracer`."""
        span = self._tracer.start_span(name, context_of(parent), SpanKind.SERVER, attributes)
        return RecordedSpan(self._tracer, span) if span.is_recording() else None

    @contextmanager
    def insert(self, requests: Sequence[Span], event_count: int) -> Iterator[None]:
        """See `Tracer`. The span belongs to the trace of the first request. The others are linked to it, too."""
        first, *others = [request for request in requests if isinstance(request, RecordedSpan)]
        links = [Link(request.own.get_span_context()) for request in (first, *others)]
        attributes: Attributes = {**INSERT, "db.operation.batch.size": event_count}
        span = self._tracer.start_span(f"insert {EVENTS}", first.context, SpanKind.CLIENT, attributes, links)
        for other in others:
            other.own.add_link(span.get_span_context())
        try:
            yield
        except Exception as error:
            fail(span, type(error).__name__)
            raise
        finally:
            span.end()

    async def flush(self) -> None:
        """Export the last spans, and end, within a limited time."""
        await flush(self._processor)


def fail(span: trace.Span, error: str) -> None:
    """Mark a span as failed."""
    span.set_attribute("error.type", error)
    span.set_status(Status(StatusCode.ERROR))


def context_of(parent: TraceParent | None) -> Context:
    """The context of a span with this parent."""
    if parent is None:
        return NO_PARENT
    flags = TraceFlags(TraceFlags.SAMPLED if parent.is_sampled else TraceFlags.DEFAULT)
    remote = SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(NonRecordingSpan(remote), NO_PARENT)


def start_tracer() -> OpenTelemetryTracer:
    """The tracer that the `OTEL_` variables describe. Raises ConfigurationError."""
    exporter = make_exporter()
    try:
        tracer = OpenTelemetryTracer(BatchSpanProcessor(exporter), resource())
    except ValueError:  # its text may quote a secret header
        raise ConfigurationError("OTEL_BSP_ variables: the queue must be at least as large as a batch") from None
    silence_libraries()
    return tracer


def resource() -> Resource:
    """What is the same for all spans of this process. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win."""
    own: Attributes = {
        "service.name": "sluice",
        "service.version": version("sluice"),
        "service.instance.id": str(uuid.uuid4()),
        "process.pid": os.getpid(),
    }
    return Resource.create(own).merge(OTELResourceDetector().detect())
