"""Lists the sources and types that a tenant has sent."""

import asyncio
from collections.abc import Awaitable, Callable

from litestar.types import HTTPScope, Receive, Send
from msgspec import Struct

from server.core.deadline import Deadline
from server.core.events.catalog import EventType
from server.core.times import format_time, from_milliseconds
from server.rest.events import encode_json, json_array
from server.rest.http.disconnect import for_present_client
from server.rest.http.headers import credentials_of, headers_of
from server.rest.http.responses import send_stream
from server.rest.query import parse_query
from server.services import Services


class EventTypeBody(Struct):
    """A type that a source has sent, and when its first and its last event came."""

    source: str
    event_type: str
    first_seen: str
    last_seen: str


def list_event_types(services: Services) -> Callable[[HTTPScope, Receive, Send], Awaitable[None]]:
    """`GET /api/v1/event-types`. It raises what `authenticate` does, InvalidParameter and Unavailable."""
    turn = asyncio.Lock()

    async def respond(scope: HTTPScope, send: Send) -> None:
        deadline = Deadline()
        key = await services.admission.authenticate(credentials_of(headers_of(scope)), "events:read", deadline)
        parse_query(scope["query_string"], ())
        async with services.reads.event_types(key.tenant_id, deadline) as found:
            first = await anext(found, None)  # before the response starts, so that an error gets its status
            await send_stream(send, json_array(first, found, encode_event_type, turn))

    return for_present_client(respond, services.requests)


def encode_event_type(item: EventType) -> bytes:
    """A type as it is shown."""
    first_seen, last_seen = (format_time(from_milliseconds(time)) for time in (item.first_seen_ms, item.last_seen_ms))
    return encode_json(EventTypeBody(item.source, item.event_type, first_seen, last_seen))
