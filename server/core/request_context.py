"""What logs and traces know of the request that the current task works on.

An API begins a request, and admission adds whose it is. Each line that is logged meanwhile has the fields of it. A task
inherits the request of the task that started it. So tasks and timers that work for several requests run in a `Context`
of their own.
"""

import re
import secrets
from contextlib import AbstractContextManager
from contextvars import Context, ContextVar
from itertools import count
from uuid import UUID

from msgspec import Struct

from server.core.errors import Code
from server.core.tracing import NO_SPAN, Attributes, Span, TraceParent, parse_traceparent

REQUEST_ID = re.compile(r"[0-9A-Fa-f-]{16,64}")
"""What is taken as the id of a request: a UUID or a hash, as proxies make them. No API key has this form."""

PROCESS = secrets.token_hex(8)
"""The first half of the ids of this process's requests."""

_numbers = count(1)


class RequestContext(Struct):
    """A request, or all requests of a key if it has no number."""

    number: int = 0
    """The number of the request in this process, from 1."""
    sent_id: str | None = None
    """The id that the client or a proxy gave it."""
    parent: TraceParent | None = None
    key_id: str | None = None
    tenant_id: UUID | None = None
    code: Code | None = None
    """Why it was rejected."""
    span: Span | None = None

    @property
    def request_id(self) -> str | None:
        """The id of the request: that which was sent, or one that is unique among all processes."""
        return self.sent_id or (f"{PROCESS}{self.number:016x}" if self.number else None)

    def fields(self) -> dict[str, str]:
        """The fields of a line about it."""
        trace_id = self.span.trace_id if self.span else self.parent.trace_id if self.parent else None
        fields = {"request_id": self.request_id, "tenant_id": self.tenant_id, "key_id": self.key_id}
        return {name: str(value) for name, value in {**fields, "trace_id": trace_id}.items() if value is not None}

    def end_span(self, attributes: Attributes, error: str | None) -> None:
        """End its span, with what became known of the request since its start."""
        if self.span is not None:
            known = {"request_id": "sluice.request.id", "tenant_id": "sluice.tenant.id", "key_id": "sluice.key.id"}
            fields = {known[name]: value for name, value in self.fields().items() if name in known}
            code = {} if self.code is None else {"sluice.error.code": self.code.value}
            self.span.end({**attributes, **fields, **code}, error)


_current: ContextVar[RequestContext | None] = ContextVar("request", default=None)


def begin_request(sent_id: str | None = None, traceparent: str | None = None) -> RequestContext:
    """Begin a request in the current task. What was sent counts only if it is a request id, or a `traceparent`."""
    if sent_id is not None and not REQUEST_ID.fullmatch(sent_id):
        sent_id = None
    request = RequestContext(next(_numbers), sent_id, parse_traceparent(traceparent))
    _current.set(request)
    return request


def current_request() -> RequestContext | None:
    """The request that the current task works on."""
    return _current.get()


def current_span() -> Span | None:
    """The span of the current request, if it is traced."""
    request = _current.get()
    return None if request is None else request.span


def note_client(key_id: str, tenant_id: UUID) -> None:
    """Add whose request it is."""
    request = _current.get()
    if request is not None:
        request.key_id, request.tenant_id = key_id, tenant_id


def note_rejection(code: Code) -> None:
    """Add why the request is rejected."""
    request = _current.get()
    if request is not None:
        request.code = code


def step(name: str, attributes: Attributes | None = None) -> AbstractContextManager[None]:
    """A span for a part of the work on the current request, which lasts as long as the block, if it is traced."""
    request = _current.get()
    return NO_SPAN if request is None or request.span is None else request.span.step(name, attributes)


def context_of_key(key_id: str | None) -> Context:
    """A context for lines about requests with a key, which may be many: those of the current request's client."""
    request, context = _current.get(), Context()
    tenant_id = None if request is None or request.key_id != key_id else request.tenant_id
    context.run(_current.set, RequestContext(key_id=key_id, tenant_id=tenant_id))
    return context
