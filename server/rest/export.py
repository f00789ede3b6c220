"""Exports events: every one that matches, as lines of JSON.

A client must be able to tell a whole export from a broken one. So whatever fails after the first byte ends the
connection: the last chunk is not sent, and neither is the end of the compressed stream. HTTP/1.0 has no chunks, so it
has no exports.

The client goes on after the last whole line that it has, by the id of that event.
"""

import asyncio
from contextlib import suppress
from typing import Never

from litestar.types import HTTPScope, Send

from server.core.access.keys import Credentials
from server.core.compression import compressed
from server.core.deadline import Deadline
from server.core.errors import MalformedRequest, Unavailable
from server.core.exports import KEEP_ALIVE
from server.rest.http.disconnect import unless_raised
from server.rest.http.headers import IDENTITY, credentials_of, headers_of
from server.rest.http.negotiation import NDJSON, VARY, response_encoding
from server.rest.http.responses import send_chunks
from server.rest.query import parse_export
from server.services import Services

KEY_CHECK_INTERVAL_S = 1
"""How often the key of an export is checked again. So a revoked key reads for about a second more."""

DRAIN_TIMEOUT_S = 10
"""How long an export may go on when the server drains: as long as any other request."""

LINES_HEADERS = [
    (b"content-type", NDJSON.encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # tells nginx to pass on what it has
    VARY,
]

NO_CHUNKS = (
    "An export needs HTTP/1.1: over HTTP/1.0 a broken one would look whole. A proxy may have sent this; "
    "for nginx, set proxy_http_version 1.1"
)
DRAINING = "This server is draining: go on at another, after the last event that you have"


async def export_events(services: Services, scope: HTTPScope, send: Send) -> None:
    """Answer with the export that a request asks for.

    Raises MalformedRequest, what `authenticate`, `parse_export` and `response_encoding` do, and Unavailable.
    """
    deadline, headers = Deadline(), headers_of(scope)
    credentials = credentials_of(headers)
    key = await services.admission.authenticate(credentials, "events:read", deadline)
    if scope["http_version"] == "1.0":
        raise MalformedRequest(NO_CHUNKS)
    where, course = parse_export(scope["query_string"])
    encoding = response_encoding(headers)
    fields = LINES_HEADERS if encoding == IDENTITY else [*LINES_HEADERS, (b"content-encoding", encoding.encode())]
    async with services.exports.export(key.tenant_id, where, course, deadline) as lines:
        await anext(lines)  # before the response starts, so that an error of the first fetch gets its status
        chunks = lines if encoding == IDENTITY else compressed(lines, encoding, urgent=KEEP_ALIVE)
        await unless_raised(send_chunks(send, chunks, fields), raise_when_over(services, credentials))


async def raise_when_over(services: Services, credentials: Credentials) -> Never:
    """Raises Unauthenticated when the key was revoked, and Unavailable some time after the server began to drain."""
    while not services.draining.is_set():
        with suppress(Unavailable):  # if the database is away, the export ends by itself
            await services.admission.authenticate(credentials, "events:read", Deadline())
        with suppress(TimeoutError):
            async with asyncio.timeout(KEY_CHECK_INTERVAL_S):
                await services.draining.wait()
    await asyncio.sleep(DRAIN_TIMEOUT_S)
    raise Unavailable(None, DRAINING)
