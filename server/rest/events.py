"""The routes under `/api/v1/events`, and what reads: `GET` a list or one event. Imports Litestar and the core."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any, cast
from uuid import UUID

import msgspec
from litestar import Request, Response, asgi, get
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler
from litestar.types import HTTPScope, Receive, Scope, Send
from msgspec import Struct

from server.core.deadline import Deadline
from server.core.errors import MethodNotAllowed, NotFound
from server.core.events import StoredEvent
from server.core.times import format_time
from server.rest.access import authenticate
from server.rest.answers import send_stream
from server.rest.body import BodyReader
from server.rest.headers import headers_of
from server.rest.ingest import ingest
from server.rest.query import parse_page
from server.services import Services

Call = Request[Any, Any, Any]

CANONICAL_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

CHUNK_BYTES = 64 * 1024
"""What is sent of a page at a time."""

EVENTS_PATH = "/api/v1/events"


class EventBody(Struct):
    """An event as it reads back."""

    id: str
    tenant_id: str
    source: str
    source_id: str | None
    event_type: str
    data: dict[str, Any]
    timestamp: str
    received_at: str
    metadata: dict[str, Any] | None


def event_routes(services: Services) -> list[ASGIRouteHandler | HTTPRouteHandler]:
    """The routes under /api/v1/events."""
    read_body = BodyReader()

    @asgi(EVENTS_PATH, copy_scope=False)
    async def events(scope: Scope, receive: Receive, send: Send) -> None:
        # Plain ASGI: for a single event, the way to and from a handler's arguments would cost as much as all the rest.
        request = cast("HTTPScope", scope)
        match request["method"]:
            case "POST":
                await ingest(services, read_body, request, receive, send)
            case "GET":
                await list_events(request, send)
            case _:
                raise MethodNotAllowed(["GET", "POST"])

    async def list_events(scope: HTTPScope, send: Send) -> None:
        deadline = Deadline()
        key = await authenticate(services, headers_of(scope), deadline)
        page = parse_page(scope["query_string"])
        events = services.events.page(key.tenant_id, page.where, page.skip, page.limit)
        first = await anext(events, None)  # an error that comes now still gets a status
        await send_stream(send, json_array(first, events))

    @get(EVENTS_PATH + "/{event_id:str}")
    async def get_event(request: Call, event_id: str) -> Response[bytes]:
        deadline = Deadline()
        key = await authenticate(services, headers_of(request.scope), deadline)
        event = await services.events.get(key.tenant_id, parse_id(event_id), deadline)
        return Response(encode_event(event_body(event)), media_type="application/json")

    return [events, get_event]


def parse_id(text: str) -> UUID:
    """The id in a path. Raises NotFound for what can be no event's id."""
    if not CANONICAL_ID.fullmatch(text):  # of the many forms that Python would read, the one that we write
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
    """The events as a JSON array, in chunks, so that neither memory nor other callers feel a large page."""
    chunk = b"[" + (encode_event(event_body(first)) if first else b"")
    async for event in rest:
        chunk += b"," + encode_event(event_body(event))
        if len(chunk) > CHUNK_BYTES:
            yield chunk
            chunk = b""
            await asyncio.sleep(0)  # let others run, however fast this caller reads
    yield chunk + b"]"


def plain_integer(value: Any) -> int:
    """An integer of BSON's own kind, for msgspec. Raises NotImplementedError for anything else."""
    if not isinstance(value, int):
        raise NotImplementedError(type(value))
    return int(value)


encode_event = msgspec.json.Encoder(enc_hook=plain_integer).encode
