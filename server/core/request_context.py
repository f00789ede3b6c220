"""The request that the current task works on, as logs, traces and errors know it.

An API begins a request, and admission adds whose it is. Each line that is logged meanwhile has the fields of it. A task
inherits the request of the task that started it. So tasks and timers that work for several requests run in a `Context`
of their own.
"""

import re
from contextvars import Context, ContextVar
from itertools import count

from server.core.errors import Code
from server.core.request import Request
from server.core.tracing import parse_traceparent

REQUEST_ID = re.compile(r"[0-9A-Fa-f-]{16,64}")
"""What is taken as the id of a request: a UUID or a hash, as proxies make them. No API key has this form."""

_numbers = count(1)

_current: ContextVar[Request | None] = ContextVar("request", default=None)


def begin_request(sent_id: str | None = None, traceparent: str | None = None) -> Request:
    """Begin a request in the current task. What was sent counts only if it is a request id, or a `traceparent`."""
    request = Request(next(_numbers))
    if sent_id is not None and REQUEST_ID.fullmatch(sent_id):
        request.sent_id = sent_id
    if traceparent is not None:
        request.parent = parse_traceparent(traceparent)
    _current.set(request)
    return request


def continue_request(request: Request) -> None:
    """Let the current task work on a request that another has begun."""
    _current.set(request)


def current_request() -> Request | None:
    """The request that the current task works on."""
    return _current.get()


def note_rejection(code: Code) -> str | None:
    """Add why the request is rejected. Returns the id of its key, if that is known."""
    request = _current.get()
    if request is None:
        return None
    request.code = code
    return request.key_id


def context_of_key(key_id: str | None) -> Context:
    """A context for lines about requests with a key, which may be many: those of the current request's client."""
    request, context = _current.get(), Context()
    tenant_id = None if request is None or request.key_id != key_id else request.tenant_id
    context.run(_current.set, Request(key_id=key_id, tenant_id=tenant_id))
    return context
