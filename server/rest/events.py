"""The event endpoints: `POST` a batch, `GET` a list or one. Imports Litestar and the core; it decides nothing."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream
from msgspec import Struct

from server.core.access import Key, Scope
from server.core.deadline import Deadline
from server.core.decode import decode_batch, decode_slowly
from server.core.errors import NotFound, RateLimited
from server.core.events import MAX_PROBLEMS, Receipt, StoredEvent
from server.core.idempotency import check_idempotency_key
from server.core.times import format_time
from server.rest.body import read_json_body
from server.rest.headers import only, wants_lenient
from server.rest.problems import ProblemEvent
from server.rest.query import parse_page
from server.rest.quota import quota_headers, remember_quota
from server.services import Services

Call = Request[Any, Any, Any]

CANONICAL_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

CHUNK_BYTES = 64 * 1024
"""What is sent of a page at a time."""

EVENTS_PATH = "/api/v1/events"


class ReceiptEvent(Struct):
    """One stored event in a receipt."""

    id: str
    tenant_id: str
    source: str
    event_type: str
    received_at: str


class ReceiptBody(Struct, omit_defaults=True):
    """The answer to a batch. `errors` lists what lenient handling left out."""

    success: bool
    events_received: int
    events: list[ReceiptEvent]
    errors: list[ProblemEvent] = []


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


def event_routes(services: Services) -> list[HTTPRouteHandler]:
    """The routes under /api/v1/events."""

    @post(EVENTS_PATH)
    async def ingest(request: Call) -> Response[bytes]:
        deadline = Deadline()
        key = await admit(services, request, deadline)
        check_idempotency_key(request.headers.getall("idempotency-key", []))
        lenient = wants_lenient(request.headers.getall("prefer", []))
        with deadline.paused():
            body = await read_json_body(request)
        batch = decode_batch(body)
        if batch is None:
            batch = await asyncio.to_thread(decode_slowly, body)
        receipt = await services.ingest(key.tenant_id, batch, lenient, deadline)
        headers = quota_headers(request)
        if lenient:
            headers["Preference-Applied"] = "handling=lenient"
        return json_response(receipt_body(receipt), 201, headers)

    @get(EVENTS_PATH)
    async def list_events(request: Call) -> Stream:
        deadline = Deadline()
        key = await authenticate(services, request, deadline)
        page = parse_page(request.scope["query_string"])
        events = services.events.page(key.tenant_id, page.where, page.skip, page.limit)
        first = await anext(events, None)  # an error that comes now still gets a status
        return Stream(json_array(first, events), media_type="application/json")

    @get(EVENTS_PATH + "/{event_id:str}")
    async def get_event(request: Call, event_id: str) -> Response[bytes]:
        deadline = Deadline()
        key = await authenticate(services, request, deadline)
        event = await services.events.get(key.tenant_id, parse_id(event_id), deadline)
        return Response(encode_event(event_body(event)), media_type="application/json")

    return [ingest, list_events, get_event]


async def admit(services: Services, request: Call, deadline: Deadline) -> Key:
    """The key of a request that may store events.

    Raises Unauthenticated, InsufficientScope, DomainNotAllowed, RateLimited, Unavailable.
    """
    secret = only(request.headers, "X-API-Key")
    try:
        key, quota = await services.admission.admit(secret, lambda key: check(key, request, "events:write"), deadline)
    except RateLimited as error:
        remember_quota(request, error.quota)
        raise
    remember_quota(request, quota)
    return key


async def authenticate(services: Services, request: Call, deadline: Deadline) -> Key:
    """The key of a request that may read. Raises Unauthenticated, InsufficientScope, DomainNotAllowed, Unavailable."""
    key = await services.admission.authenticate(only(request.headers, "X-API-Key"), deadline)
    check(key, request, "events:read")
    return key


def check(key: Key, request: Call, scope: Scope) -> None:
    """Raises InsufficientScope or DomainNotAllowed."""
    key.require(scope)
    key.check_domain(only(request.headers, "Origin"), only(request.headers, "Referer"))


def parse_id(text: str) -> UUID:
    """The id in a path. Raises NotFound for what can be no event's id."""
    if not CANONICAL_ID.fullmatch(text):  # of the many forms that Python would read, the one that we write
        raise NotFound("This tenant has no event with this id")
    return UUID(text)


def receipt_body(receipt: Receipt) -> ReceiptBody:
    """The receipt as documented: times in it are to the second."""
    header = receipt.header
    tenant_id, source = str(header.tenant_id), header.source
    received_at = format_time(header.received_at.replace(microsecond=0))
    events = [
        ReceiptEvent(event_id, tenant_id, source, event_type, received_at)
        for event_id, event_type in zip(receipt.ids, receipt.event_types, strict=True)
    ]
    errors = [ProblemEvent(problem.path, problem.message) for problem in receipt.rejected[:MAX_PROBLEMS]]
    return ReceiptBody(success=True, events_received=len(events), events=events, errors=errors)


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


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response[bytes]:
    """`body` as JSON."""
    return Response(msgspec.json.encode(body), status_code=status, headers=headers, media_type="application/json")
