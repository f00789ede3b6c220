"""The requests that logs and traces know of gRPC: a call, or a batch of a stream, and their spans.

The attributes are those of OpenTelemetry's semantic conventions for gRPC. None of them holds what a client wrote.
"""

from collections.abc import Awaitable
from typing import TypeVar

from server.core.errors import Code
from server.core.request import Request
from server.core.request_context import begin_request
from server.core.tracing import Tracer
from server.rpc.arrivals import Context
from server.status import STATUS

T = TypeVar("T")

SERVER_ERRORS = frozenset({Code.INTERNAL, Code.UNAVAILABLE})
"""The codes that are errors of a server, as the conventions have it: INTERNAL and UNAVAILABLE."""


def begin_call(context: Context) -> Request:
    """Begin a request, with what a call's metadata says of its id and its trace."""
    sent = {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
    return begin_request(sent.get("x-request-id"), sent.get("traceparent"))


async def as_request(handled: Awaitable[T], method: str, context: Context, tracer: Tracer | None) -> T:
    """The result of `handled`, which responds to a call of `method`, as a request. With a tracer it has a span."""
    request = begin_call(context)
    start_span(request, method, tracer)
    try:
        return await handled
    finally:
        end_span(request)


def start_span(request: Request, method: str, tracer: Tracer | None) -> None:
    """Start the span of a request, if it is traced."""
    if tracer is not None:
        attributes = {"rpc.system.name": "grpc", "rpc.method": method}
        request.span = tracer.start_request(method, request.parent, attributes)


def end_span(request: Request) -> None:
    """End the span of a request, if it has one."""
    if request.span is not None:
        status = "OK" if request.code is None else STATUS[request.code].grpc or "UNKNOWN"
        request.end_span({"rpc.response.status_code": status}, status if request.code in SERVER_ERRORS else None)
