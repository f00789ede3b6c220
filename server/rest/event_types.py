"""Lists the sources and types that a tenant has sent."""

from collections.abc import Awaitable, Callable

import msgspec
from litestar.types import HTTPScope, Receive, Send
from msgspec import Struct

from server.core.deadline import Deadline
from server.core.times import format_time, from_milliseconds
from server.rest.events import for_present_client
from server.rest.http.headers import credentials_of, headers_of
from server.rest.http.responses import send_json
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

    async def respond(scope: HTTPScope, send: Send) -> None:
        deadline = Deadline()
        key = await services.admission.authenticate(credentials_of(headers_of(scope)), "events:read", deadline)
        with key.named_in_errors():
            parse_query(scope["query_string"], ())
            found = [
                EventTypeBody(
                    item.source,
                    item.event_type,
                    format_time(from_milliseconds(item.first_seen_ms)),
                    format_time(from_milliseconds(item.last_seen_ms)),
                )
                for item in await services.reads.event_types(key.tenant_id, deadline)
            ]
            await send_json(send, msgspec.json.encode(found))

    return for_present_client(respond)
