"""Begins a request for logs and traces, from its head.

The scope of a request has it as an extension. So the protocol can answer in its name while a handler works on it. The
request itself holds no scope: such a cycle would keep both in memory.
"""

import re
from typing import Any

from server.core.request_context import begin_request
from server.rest.http.parsing import Fields

REQUEST = "sluice.request"
"""The extension of a scope that is its request, once that is begun."""

REQUEST_ID_HEADER, TRACEPARENT_HEADER = b"x-request-id", b"traceparent"

UNPARSED = re.compile(rb"\n(%s|%s):([^\r\n]*)(?=\r?\n)" % (REQUEST_ID_HEADER, TRACEPARENT_HEADER), re.IGNORECASE)


def unparsed_ids(head: bytes) -> Fields:
    """The id and the trace in the bytes of a head in which the parser stops: it may hold back a line or all of them."""
    lines, end, _ = head.partition(b"\r\n\r\n")
    return [(name.lower(), value.strip(b" \t")) for name, value in UNPARSED.findall(lines + end)]


def begin_http_request(headers: Fields, extensions: dict[str, Any]) -> None:
    """Begin a request, with what its headers say of its id and its trace. `extensions` are those of its scope."""
    request_id = traceparent = None
    for name, value in headers:
        if name == REQUEST_ID_HEADER:
            request_id = value.decode("latin-1")
        elif name == TRACEPARENT_HEADER:
            traceparent = value.decode("latin-1")
    extensions[REQUEST] = begin_request(request_id, traceparent)
