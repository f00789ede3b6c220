"""`POST /api/v1/events`: a batch in, its receipt out. Imports Litestar and the core; it decides nothing."""

import asyncio
from collections.abc import Awaitable
from functools import lru_cache

import msgspec
from litestar.types import HTTPScope, Receive, Send
from msgspec import Struct

from server.core.backlog import Place
from server.core.deadline import Deadline
from server.core.decode import decode_batch, decode_slowly
from server.core.events import MAX_PROBLEMS, Candidate, Receipt
from server.core.idempotency import parse_idempotency_key
from server.core.times import MS_PER_S, format_time, from_milliseconds
from server.rest.access import admit
from server.rest.answers import send_json
from server.rest.body import BodyReader
from server.rest.headers import headers_of, wants_lenient
from server.rest.problems import ProblemEvent
from server.rest.quota import quota_headers
from server.services import Services


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


async def ingest(services: Services, read_body: BodyReader, scope: HTTPScope, receive: Receive, send: Send) -> None:
    """Take in the batch of a request, and answer with its receipt. Raises what every step does."""
    deadline = Deadline()
    headers = headers_of(scope)
    with services.backlog.place() as place:
        key = await admit(services, scope, headers, deadline)
        idempotency_key = parse_idempotency_key(headers.get("idempotency-key", ()))
        lenient = wants_lenient(headers.get("prefer", ()))
        batch = read_batch(read_body(headers, receive), place, deadline)  # awaited below: no name keeps it alive
        receipt = await services.ingest(key.tenant_id, await batch, lenient, idempotency_key, deadline)
    answer = {"preference-applied": "handling=lenient", **quota_headers(scope)} if lenient else quota_headers(scope)
    if receipt.replayed:
        answer = {"idempotent-replayed": "true", **answer}
    await send_json(send, 201, msgspec.json.encode(receipt_body(receipt)), answer)


async def read_batch(reading: Awaitable[bytes], place: Place, deadline: Deadline) -> Candidate:
    """The batch in a request's body. Raises what `BodyReader` and `decode_slowly` do, and Unavailable."""
    seconds = deadline.remaining()
    place.leave()
    body = await reading
    deadline.reset(seconds)  # the time that the caller takes is not the server's
    place.take_again()
    place.add_bytes(len(body))
    batch = decode_batch(body)
    if batch is None:
        batch = await asyncio.to_thread(decode_slowly, body)
    place.add_events(len(batch.events))
    return batch


@lru_cache(maxsize=64)
def to_the_second(seconds: int) -> str:
    """That many seconds after 1970, as receipts tell their time: those of a moment tell the same."""
    return format_time(from_milliseconds(seconds * MS_PER_S))


def receipt_body(receipt: Receipt) -> ReceiptBody:
    """The receipt as documented."""
    header = receipt.header
    tenant_id, source = str(header.tenant_id), header.source
    received_at = to_the_second(header.received_at_ms // MS_PER_S)
    events = [
        ReceiptEvent(event_id, tenant_id, source, event_type, received_at)
        for event_id, event_type in zip(receipt.ids, receipt.event_types, strict=True)
    ]
    errors = [ProblemEvent(problem.path, problem.message) for problem in receipt.rejected[:MAX_PROBLEMS]]
    return ReceiptBody(success=True, events_received=len(events), events=events, errors=errors)
