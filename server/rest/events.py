"""The event endpoints: `POST` a batch, `GET` a list or one. Imports Litestar and the core; it decides nothing."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast
from uuid import UUID

import msgspec
from litestar import Request, Response, asgi, get
from litestar.handlers import ASGIRouteHandler, HTTPRouteHandler
from litestar.types import HTTPScope, Receive, Scope, Send
from msgspec import Struct

from server.core.access import Key
from server.core.access import Scope as KeyScope
from server.core.backlog import Place
from server.core.deadline import Deadline
from server.core.decode import decode_batch, decode_slowly
from server.core.errors import MethodNotAllowed, NotFound, RateLimited
from server.core.events import MAX_PROBLEMS, Candidate, Receipt, StoredEvent
from server.core.idempotency import parse_idempotency_key
from server.core.times import format_time
from server.rest.arrivals import Arrivals
from server.rest.body import read_json_body
from server.rest.headers import Headers, headers_of, only, wants_lenient
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


def event_routes(services: Services) -> list[ASGIRouteHandler | HTTPRouteHandler]:
    """The routes under /api/v1/events."""
    arrivals = Arrivals()

    @asgi(EVENTS_PATH, copy_scope=False)
    async def events(scope: Scope, receive: Receive, send: Send) -> None:
        # Plain ASGI: for a single event, the way to and from a handler's arguments would cost as much as all the rest.
        request = cast("HTTPScope", scope)
        match request["method"]:
            case "POST":
                await ingest(request, receive, send)
            case "GET":
                await list_events(request, send)
            case _:
                raise MethodNotAllowed(["GET", "POST"])

    async def ingest(scope: HTTPScope, receive: Receive, send: Send) -> None:
        deadline = Deadline()
        headers = headers_of(scope)
        with services.backlog.place() as place:
            key = await admit(services, scope, headers, deadline)
            idempotency_key = parse_idempotency_key(headers.get("idempotency-key", ()))
            lenient = wants_lenient(headers.get("prefer", ()))
            batch = read_batch(headers, receive, arrivals, place, deadline)
            receipt = await services.ingest(key.tenant_id, await batch, lenient, idempotency_key, deadline)
        answer = {"preference-applied": "handling=lenient", **quota_headers(scope)} if lenient else quota_headers(scope)
        if receipt.replayed:
            answer = {"idempotent-replayed": "true", **answer}
        await send_json(send, 201, msgspec.json.encode(receipt_body(receipt)), answer)

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


async def admit(services: Services, scope: HTTPScope, headers: Headers, deadline: Deadline) -> Key:
    """The key of a request that may store events.

    Raises Unauthenticated, InsufficientScope, DomainNotAllowed, RateLimited, Unavailable.
    """
    secret = only(headers, "X-API-Key")
    try:
        key, quota = await services.admission.admit(secret, lambda key: check(key, headers, "events:write"), deadline)
    except RateLimited as error:
        remember_quota(scope, error.quota)
        raise
    remember_quota(scope, quota)
    return key


async def authenticate(services: Services, headers: Headers, deadline: Deadline) -> Key:
    """The key of a request that may read. Raises Unauthenticated, InsufficientScope, DomainNotAllowed, Unavailable."""
    key = await services.admission.authenticate(only(headers, "X-API-Key"), deadline)
    check(key, headers, "events:read")
    return key


async def read_batch(
    headers: Headers, receive: Receive, arrivals: Arrivals, place: Place, deadline: Deadline
) -> Candidate:
    """The batch in a request's body. Raises what `read_json_body` and `decode_slowly` do, and Unavailable."""
    with place.left(), deadline.paused():  # the time that the caller takes is not the server's
        body = await read_json_body(headers, receive, arrivals)
    place.add_bytes(len(body))
    batch = decode_batch(body)
    if batch is None:
        batch = await asyncio.to_thread(decode_slowly, body)
    place.add_events(len(batch.events))
    return batch


def check(key: Key, headers: Headers, scope: KeyScope) -> None:
    """Raises InsufficientScope or DomainNotAllowed."""
    key.require(scope)
    key.check_domain(only(headers, "Origin"), only(headers, "Referer"))


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


async def send_json(send: Send, status: int, body: bytes, headers: Mapping[str, str]) -> None:
    """Answer with JSON."""
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *((name.encode(), value.encode()) for name, value in headers.items()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def send_stream(send: Send, chunks: AsyncIterator[bytes]) -> None:
    """Answer with JSON that comes in chunks."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    async for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def json_response(body: Any) -> Response[bytes]:
    """`body` as JSON."""
    return Response(msgspec.json.encode(body), media_type="application/json")
