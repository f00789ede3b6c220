"""`POST /api/v1/events`: reads a batch, hands it to the core, and sends the receipt."""

from collections.abc import Awaitable, Callable
from functools import lru_cache
from time import perf_counter_ns

import msgspec
from litestar.types import HTTPScope, Receive, Send
from msgspec import Struct

from server.core.events.decode import decode_batch, decoding
from server.core.events.model import MAX_LISTED_ERRORS, DecodedBatch, Receipt
from server.core.ingest.ingest import AdmittedRequest, Submission
from server.core.times import MS_PER_S, format_time, from_milliseconds
from server.rest.http.body import BodyReader
from server.rest.http.disconnect import unless_gone
from server.rest.http.headers import (
    Headers,
    body_format_of,
    credentials_of,
    headers_of,
    ingest_options_of,
    quota_headers,
)
from server.rest.http.problems import ProblemEvent, problem_events
from server.rest.http.responses import JSON_HEADERS
from server.rest.raw import ingest_raw
from server.services import Services


class ReceiptEvent(Struct):
    """One stored event in a receipt."""

    id: str
    tenant_id: str
    source: str
    event_type: str
    received_at: str


class ReceiptBody(Struct, omit_defaults=True):
    """The response to a batch. `errors` lists the events that lenient handling rejected."""

    success: bool
    events_received: int
    events: list[ReceiptEvent]
    errors: list[ProblemEvent] = []


def ingest(services: Services) -> Callable[[HTTPScope, Receive, Send], Awaitable[None]]:
    """`POST /api/v1/events`. It raises what `Ingest` and `reader` do. With a query, `raw.py` handles it."""
    read_body = BodyReader()
    raw = ingest_raw(services, read_body)

    async def handler(scope: HTTPScope, receive: Receive, send: Send) -> None:
        if scope["query_string"]:
            await raw(scope, receive, send)
            return
        with services.requests.open("rest") as origin:
            headers = headers_of(scope)
            receipt, quota = await services.ingest(
                origin, credentials_of(headers), reader(headers, read_body, scope, receive)
            )
            body = msgspec.json.encode(receipt_body(receipt))
            fields = receipt_headers(receipt, quota_headers(quota), len(body))
        await send({"type": "http.response.start", "status": 201, "headers": fields})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return handler


def reader(
    headers: Headers, read_body: BodyReader, scope: HTTPScope, receive: Receive
) -> Callable[[AdmittedRequest], Awaitable[Submission]]:
    """What reads the batch of a request once its key is admitted.

    It raises InvalidHeader, MalformedRequest, UnsupportedMediaType, and what `BodyReader`, `decoding` and
    `AdmittedRequest.slowly` do.
    """

    async def read(request: AdmittedRequest) -> Submission:
        options, body_format = ingest_options_of(headers), body_format_of(headers)
        body = await read_body(request, body_format, scope, receive)
        request.slot.add_bytes(len(body))
        request.origin.size = len(body)

        async def decode_slowly() -> DecodedBatch:
            return await unless_gone(request.slowly(decoding(body), len(body)), receive)

        started_ns = perf_counter_ns()
        try:
            batch = decode_batch(body) or await decode_slowly()
        finally:
            request.origin.end_step("decode", started_ns)
        request.slot.add_events(len(batch.events))
        return Submission(batch, options, len(body), decode_slowly)

    return read


def receipt_headers(receipt: Receipt, headers: dict[str, str], size: int) -> list[tuple[bytes, bytes]]:
    """The headers of the response to a stored batch: `headers`, those that the receipt asks for, and of the body."""
    if receipt.lenient:
        headers["preference-applied"] = "handling=lenient"
    if receipt.replayed:
        headers["idempotent-replayed"] = "true"
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    return [*JSON_HEADERS, (b"content-length", b"%d" % size), *fields]


@lru_cache(maxsize=64)
def format_second(seconds: int) -> str:
    """A time in seconds since 1970 as receipts have it. Cached, since receipts of the same second have the same."""
    return format_time(from_milliseconds(seconds * MS_PER_S))


def receipt_body(receipt: Receipt) -> ReceiptBody:
    """The receipt as documented."""
    info = receipt.info
    tenant_id, source = str(info.tenant_id), info.source
    received_at = format_second(info.received_at_ms // MS_PER_S)
    events = [
        ReceiptEvent(event_id, tenant_id, source, event_type, received_at)
        for event_id, event_type in zip(receipt.ids, receipt.event_types, strict=True)
    ]
    errors = problem_events(receipt.rejected[:MAX_LISTED_ERRORS])
    return ReceiptBody(success=True, events_received=len(events), events=events, errors=errors)
