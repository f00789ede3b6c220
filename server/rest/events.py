"""Lists stored events and gets one."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec
from litestar import Request, Response
from litestar.types import HTTPScope, Receive, Send
from msgspec import Struct

from server.core.deadline import Deadline
from server.core.errors import NotFound
from server.core.events.model import StoredEvent
from server.core.times import format_time
from server.rest.http.headers import credentials_of, headers_of
from server.rest.http.responses import send_stream
from server.rest.query import parse_page
from server.services import Services

CANONICAL_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
"""The form of an id that Sluice writes. Python would read many others."""

CHUNK_BYTES = 64 * 1024
"""How much of a page is sent at a time."""


class EventBody(Struct):
    """A stored event as it is shown."""

    id: str
    tenant_id: str
    source: str
    source_id: str | None
    event_type: str
    data: dict[str, Any]
    timestamp: str
    received_at: str
    metadata: dict[str, Any] | None


def get_event(services: Services) -> Callable[..., Awaitable[Response[bytes]]]:
    """`GET /api/v1/events/{event_id}`."""

    async def handler(request: Request[Any, Any, Any], event_id: str) -> Response[bytes]:
        deadline = Deadline()
        key = await services.admission.authenticate(credentials_of(headers_of(request.scope)), "events:read", deadline)
        event = await services.events.get(key.tenant_id, parse_id(event_id), deadline)
        return Response(encode_event(event_body(event)), media_type="application/json")

    return handler


def list_events(services: Services) -> Callable[[HTTPScope, Receive, Send], Awaitable[None]]:
    """`GET /api/v1/events`. It raises what `authenticate` and `parse_page` do, and Unavailable."""

    async def handler(scope: HTTPScope, _receive: Receive, send: Send) -> None:
        key = await services.admission.authenticate(credentials_of(headers_of(scope)), "events:read", Deadline())
        page = parse_page(scope["query_string"])
        found = services.events.page(key.tenant_id, page.where, page.skip, page.limit)
        first = await anext(found, None)  # before the response starts, so that an error still gets its status
        await send_stream(send, json_array(first, found))

    return handler


def parse_id(text: str) -> UUID:
    """The id in a path. Raises NotFound if it cannot be an event's id."""
    if not CANONICAL_ID.fullmatch(text):
        raise NotFound("This tenant has no event with this id")
    return UUID(text)


def event_body(event: StoredEvent) -> EventBody:
    """A stored event as it is shown."""
    return EventBody(
        id=str(event.id),
        tenant_id=str(event.tenant_id),
        source=event.source,
        source_id=event.source_id,
        event_type=event.event_type,
        data=event.data,
        timestamp=format_time(event.timestamp),
        received_at=format_time(event.received_at),
        metadata=event.metadata,
    )


async def json_array(first: StoredEvent | None, rest: AsyncIterator[StoredEvent]) -> AsyncIterator[bytes]:
    """The events as a JSON array in chunks, so that a large page neither takes memory nor delays other requests."""
    chunk = b"[" + (encode_event(event_body(first)) if first else b"")
    async for event in rest:
        chunk += b"," + encode_event(event_body(event))
        if len(chunk) > CHUNK_BYTES:
            yield chunk
            chunk = b""
            await asyncio.sleep(0)  # let other requests run, however fast this client reads
    yield chunk + b"]"


def plain_integer(value: Any) -> int:
    """An integer of BSON's own type as Python's, for msgspec. Raises NotImplementedError for anything else."""
    if not isinstance(value, int):
        raise NotImplementedError(type(value))
    return int(value)


encode_event = msgspec.json.Encoder(enc_hook=plain_integer).encode
