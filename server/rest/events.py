"""The event endpoints: `POST` a batch, `GET` a list or one. Imports Litestar and the core; it decides nothing."""

from typing import Any
from uuid import UUID

import msgspec
from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct

from server.core.access import Key, Scope, authenticate
from server.core.deadline import Deadline
from server.core.decode import decode_batch
from server.core.errors import NotFound
from server.core.events import MAX_PROBLEMS, Receipt, StoredEvent
from server.core.idempotency import check_idempotency_key
from server.core.times import format_time
from server.rest.body import read_json_body
from server.rest.headers import wants_lenient
from server.rest.problems import ProblemEvent
from server.rest.query import parse_page
from server.services import Services

Call = Request[Any, Any, Any]

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
        key = await admit(services, request, "events:write", deadline)
        check_idempotency_key(request.headers.getall("idempotency-key", []))
        lenient = wants_lenient(request.headers.getall("prefer", []))
        with deadline.paused():
            body = await read_json_body(request)
        receipt = await services.ingest(key.tenant_id, decode_batch(body), lenient, deadline)
        headers = {"Preference-Applied": "handling=lenient"} if lenient else None
        return json_response(receipt_body(receipt), 201, headers)

    @get(EVENTS_PATH)
    async def list_events(request: Call) -> Response[bytes]:
        deadline = Deadline()
        key = await admit(services, request, "events:read", deadline)
        page = parse_page(request.scope["query_string"])
        events = await services.events.page(key.tenant_id, page.where, page.skip, page.limit, deadline)
        return json_response([event_body(event) for event in events])

    @get(EVENTS_PATH + "/{event_id:str}")
    async def get_event(request: Call, event_id: str) -> Response[bytes]:
        deadline = Deadline()
        key = await admit(services, request, "events:read", deadline)
        event = await services.events.get(key.tenant_id, parse_id(event_id), deadline)
        return json_response(event_body(event))

    return [ingest, list_events, get_event]


async def admit(services: Services, request: Call, scope: Scope, deadline: Deadline) -> Key:
    """The key of a request that may go on. Raises Unauthenticated, InsufficientScope, DomainNotAllowed, Unavailable."""
    headers = request.headers
    key = await authenticate(services.keys, headers.get("x-api-key"), deadline)
    key.require(scope)
    key.check_domain(headers.get("origin"), headers.get("referer"))
    return key


def parse_id(text: str) -> UUID:
    """The id in a path. Raises NotFound for what can be no event's id."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFound("This tenant has no event with this id") from None


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


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response[bytes]:
    """`body` as JSON."""
    return Response(msgspec.json.encode(body), status_code=status, headers=headers, media_type="application/json")
