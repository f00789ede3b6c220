"""Lists stored events and gets one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar, cast
from uuid import UUID

import msgspec
from litestar.types import ASGIApp, HTTPScope, Receive, Send

from server.core.deadline import Deadline
from server.core.errors import NotFound
from server.core.events.model import StoredEvent, body_of
from server.core.events.store import PageSize, Position
from server.rest.export import export_events
from server.rest.http.disconnect import for_present_client
from server.rest.http.headers import credentials_of, headers_of
from server.rest.http.negotiation import VARY, wants_lines
from server.rest.http.responses import CHUNK_BYTES, send_json, send_stream
from server.rest.query import CANONICAL_ID, next_page, parse_page
from server.services import Services

EVENTS_PATH = "/api/v1/events"

Item = TypeVar("Item")


def get_event(services: Services) -> Callable[[str], Awaitable[ASGIApp]]:
    """`GET /api/v1/events/{event_id}`. It raises what `authenticate` and `Reads.event` do."""

    async def handler(event_id: str) -> ASGIApp:
        async def respond(scope: HTTPScope, send: Send) -> None:
            deadline = Deadline()
            credentials = credentials_of(headers_of(scope))
            key = await services.admission.authenticate(credentials, "events:read", deadline)
            async with services.reads.event(key.tenant_id, parse_id(event_id), deadline) as event:
                await send_json(send, encode_event(event))

        return cast("ASGIApp", for_present_client(respond, services.requests))

    return handler


def list_events(services: Services) -> Callable[[HTTPScope, Receive, Send], Awaitable[None]]:
    """`GET /api/v1/events`: a page, or an export (`export.py`).

    It raises what `authenticate` and `parse_page` do, and Unavailable.
    """
    turn = asyncio.Lock()

    async def list_page(scope: HTTPScope, send: Send) -> None:
        deadline = Deadline()
        key = await services.admission.authenticate(credentials_of(headers_of(scope)), "events:read", deadline)
        page = parse_page(scope["query_string"])
        start = Position(page.skip)
        if page.cursor is not None:
            start = services.cursors.decode(key.tenant_id, page.where, page.cursor)
        async with services.reads.page(key.tenant_id, page.where, start, PageSize(page.limit), deadline) as found:
            fields = [VARY]
            if found.rest is not None:
                cursor = services.cursors.encode(key.tenant_id, page.where, found.rest)
                fields.append(link_to_next(next_page(scope["query_string"], cursor)))
            first = await anext(found.events, None)  # before the response starts, so that an error gets its status
            await send_stream(send, json_array(first, found.events, encode_event, turn), fields)

    async def respond(scope: HTTPScope, send: Send) -> None:
        if wants_lines(headers_of(scope)):
            await export_events(services, scope, send)
        else:
            await list_page(scope, send)

    return for_present_client(respond, services.requests)


def link_to_next(query: str) -> tuple[bytes, bytes]:
    """The header that names the next page (RFC 8288)."""
    return b"link", f'<{EVENTS_PATH}?{query}>; rel="next"'.encode()


def parse_id(text: str) -> UUID:
    """The id in a path. Raises NotFound if it cannot be an event's id."""
    if not CANONICAL_ID.fullmatch(text):
        raise NotFound("This tenant has no event with this id")
    return UUID(text)


def encode_event(event: StoredEvent) -> bytes:
    """A stored event as it is shown."""
    return encode_json(body_of(event))


async def json_array(
    first: Item | None, rest: AsyncIterator[Item], encode: Callable[[Item], bytes], turn: asyncio.Lock
) -> AsyncIterator[bytes]:
    """Items as a JSON array in chunks, so that a large page neither takes memory nor delays other requests.

    All lists of a route share `turn`. In each round of the event loop, one of them makes a chunk, and then other
    requests run.
    """
    chunk = b"[" + (encode(first) if first else b"")
    async for item in rest:
        chunk += b"," + encode(item)
        if len(chunk) > CHUNK_BYTES:
            yield chunk
            chunk = b""
            async with turn:
                await asyncio.sleep(0)
    yield chunk + b"]"


encode_json = msgspec.json.Encoder().encode
