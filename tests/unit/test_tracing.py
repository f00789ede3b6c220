"""Spans as the in-memory exporter has them, and what is taken from clients of a trace."""

import asyncio
import functools
import os
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextvars import copy_context
from time import perf_counter_ns
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from server.core.coalesce import Coalescer
from server.core.deadline import Deadline
from server.core.errors import Code, ConfigurationError, Unavailable
from server.core.ingest.group_commit import QueuedBatch, group_commit
from server.core.ingest.store import EncodedBatch
from server.core.request import Request
from server.core.request_context import (
    begin_request,
    context_of_key,
    current_request,
)
from server.core.requests import Requests
from server.core.tracing import TraceParent, parse_traceparent
from server.runtime.opentelemetry_tracer import OpenTelemetryTracer
from server.runtime.span_export import LOG_INTERVAL_S, LoggedExporter
from server.runtime.tracing import is_wanted, start_tracing

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
SECRET = "text that no span may have"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(spans: InMemorySpanExporter) -> OpenTelemetryTracer:
    return OpenTelemetryTracer(SimpleSpanProcessor(spans), Resource({}))


def in_own_context(test: Callable[..., None]) -> Callable[..., None]:
    """A test that begins a request, which others must not see."""

    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        copy_context().run(test, *arguments, **fixtures)

    return run


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    """The spans of this name, as they ended."""
    return [span for span in spans.get_finished_spans() if span.name == name]


class Store:
    """Inserts when it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.may_insert = asyncio.Event()
        self._error = error

    async def insert(self, group: Sequence[EncodedBatch], _: Deadline) -> list[dict[int, Any]]:
        await self.may_insert.wait()
        if self._error is not None:
            raise self._error
        return [{} for _ in group]


async def commit_all(tracer: OpenTelemetryTracer, store: Store, parents: Sequence[str | None]) -> None:
    """Commit a batch for each of the requests with these parents, the first alone and the others together."""
    commit, requests = group_commit(store, tracer), Requests()

    async def handle(parent: str | None) -> None:
        request = begin_request(traceparent=parent)
        request.span = tracer.start_request("POST", request.parent, {})
        try:
            await commit(QueuedBatch(EncodedBatch(b"x", 1, 1), requests.open("rest"), 0), Deadline())
        finally:
            request.end_step("commit", perf_counter_ns())
            request.end_span({}, None)

    working: list[Awaitable[None]] = [asyncio.ensure_future(handle(parent)) for parent in parents]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.may_insert.set()
    await asyncio.gather(*working, return_exceptions=True)


def test_an_insert_is_linked_to_all_its_requests(tracer: OpenTelemetryTracer, spans: InMemorySpanExporter) -> None:
    other = f"00-{'a' * 32}-{'b' * 16}-01"
    asyncio.run(commit_all(tracer, Store(), [PARENT, other, f"00-{'c' * 32}-{'d' * 16}-00"]))
    requests, (insert,) = named(spans, "POST"), named(spans, "insert events")
    assert len(requests) == len(named(spans, "commit")) == 2, "the third is not sampled"
    assert insert.kind is SpanKind.CLIENT
    assert [link.context for link in insert.links] == [request.get_span_context() for request in requests]
    assert insert.attributes is not None
    assert insert.attributes["db.operation.batch.size"] == 3
    first, second = requests
    assert first.parent is not None
    assert insert.parent is not None
    assert (f"{first.parent.trace_id:032x}", f"{first.parent.span_id:016x}") == (TRACE_ID, SPAN_ID)
    assert insert.parent == first.get_span_context()
    assert [link.context for link in second.links] == [insert.get_span_context()]
    for commit in named(spans, "commit"):
        assert commit.parent is not None
        assert commit.parent in [request.get_span_context() for request in requests]


def test_requests_that_are_not_sampled_have_no_insert_span(
    tracer: OpenTelemetryTracer, spans: InMemorySpanExporter
) -> None:
    asyncio.run(commit_all(tracer, Store(), [f"00-{TRACE_ID}-{SPAN_ID}-00"]))
    assert not spans.get_finished_spans()


def test_no_span_has_the_text_of_an_exception(tracer: OpenTelemetryTracer, spans: InMemorySpanExporter) -> None:
    asyncio.run(commit_all(tracer, Store(Unavailable("unknown", SECRET)), [PARENT]))
    (insert,) = named(spans, "insert events")
    assert insert.status.status_code is StatusCode.ERROR
    assert insert.attributes is not None
    assert insert.attributes["error.type"] == "Unavailable"
    assert SECRET not in "".join(span.to_json() for span in spans.get_finished_spans())


def test_a_group_is_of_no_single_request() -> None:
    """A line that is logged within a group names none of its requests."""
    found = list[Request | None]()

    async def run(items: Sequence[int], _: Deadline) -> Sequence[int]:
        found.append(current_request())
        return items

    async def call() -> None:
        begin_request()
        assert await Coalescer(run)(1, Deadline()) == 1

    asyncio.run(call())
    assert found == [None]


@in_own_context
def test_what_is_known_of_a_request() -> None:
    request = begin_request("0123456789abcdef", PARENT)
    assert request.fields() == {"request_id": "0123456789abcdef", "trace_id": TRACE_ID}
    assert begin_request().request_id != begin_request().request_id
    tenant_id = uuid.uuid4()
    request = begin_request()
    request.key_id, request.tenant_id = "key", tenant_id
    known = {"key_id": "key", "tenant_id": str(tenant_id)}
    of_key, of_another = context_of_key("key"), context_of_key("other")
    assert fields_in(of_key) == known
    assert fields_in(of_another) == {"key_id": "other"}


def fields_in(context: Any) -> dict[str, str]:
    """The fields of a line that is logged in a context."""
    request = context.run(current_request)
    assert request is not None
    fields: dict[str, str] = request.fields()
    return fields


@in_own_context
def test_why_a_request_was_rejected(tracer: OpenTelemetryTracer, spans: InMemorySpanExporter) -> None:
    request = begin_request()
    request.span = tracer.start_request("POST", None, {"http.route": "/"})
    request.code = Code.RATE_LIMITED
    request.end_span({"http.response.status_code": 429}, None)
    (span,) = spans.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["sluice.error.code"] == "rate_limited"
    assert span.attributes["sluice.request.id"] == request.request_id
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("text", "is_sampled"),
    [(PARENT, True), (PARENT[:-2] + "00", False), (PARENT[:-2] + "03", True), ("cc" + PARENT[2:] + "-what", True)],
)
def test_a_traceparent(text: str, is_sampled: bool) -> None:
    assert parse_traceparent(text) == TraceParent(TRACE_ID, SPAN_ID, is_sampled)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        PARENT + "-more",
        PARENT.upper(),
        "ff" + PARENT[2:],
        PARENT.replace(TRACE_ID, "0" * 32),
        PARENT.replace(SPAN_ID, "0" * 16),
        PARENT[:-1],
        PARENT + "\n",
        "cc" + PARENT[2:] + "-" + "x" * 1000,
    ],
)
def test_what_is_no_traceparent(text: str | None) -> None:
    assert parse_traceparent(text) is None


@given(st.text(max_size=80))
def test_any_text_is_none_or_a_parent(text: str) -> None:
    parse_traceparent(text)


@pytest.mark.parametrize(
    ("variables", "is_on"),
    [
        ({}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_SERVICE_NAME": "a"}, False),
    ],
    ids=str,
)
def test_what_turns_tracing_on(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], is_on: bool) -> None:
    set_variables(monkeypatch, variables)
    assert is_wanted() == is_on


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_BSP_MAX_QUEUE_SIZE": "1"},
    ],
    ids=str,
)
def test_variables_that_cannot_work(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    set_variables(monkeypatch, variables)
    with pytest.raises(ConfigurationError, match="OTEL_"):
        start_tracing()


def set_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Set these variables of OpenTelemetry, and no others."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


class Broken(SpanExporter):
    """A collector that is away, or an exporter with a bug."""

    def __init__(self) -> None:
        self.raises = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002
        if self.raises:
            raise RuntimeError(SECRET)
        return SpanExportResult.FAILURE


def test_at_most_a_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now, broken = [0.0], Broken()
    exporter = LoggedExporter(broken, lambda: now[0])
    span = ReadableSpan("a")
    for now[0] in (0.0, 1.0, LOG_INTERVAL_S - 1, LOG_INTERVAL_S, LOG_INTERVAL_S + 1):
        broken.raises = not broken.raises
        assert exporter.export([span, span]) is SpanExportResult.FAILURE
    assert [line.split(" spans")[0] for line in caplog.messages] == ["2", "6"]
    assert SECRET not in caplog.text


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level("INFO", "sluice"):
        yield
