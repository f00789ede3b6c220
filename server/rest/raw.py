"""`POST /api/v1/events` with a query: a raw body, whose items the query explains."""

from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec
from litestar.types import HTTPScope, Receive, Send
from msgspec import Struct

from server.core.errors import InvalidParameter
from server.core.events.items import Items, elements, lines
from server.core.events.json_text import check_json
from server.core.events.raw import ItemDecoder, RawQuery
from server.core.ingest.ingest import AdmittedRequest
from server.core.ingest.raw_body import RawBody, RawReceipt
from server.core.slow_work import Steps
from server.rest.http.body import BodyReader
from server.rest.http.disconnect import unless_gone
from server.rest.http.headers import (
    JSON,
    Headers,
    body_format_of,
    credentials_of,
    handling_of,
    headers_of,
    ingest_options_of,
    quota_headers,
)
from server.rest.http.negotiation import LINE_TYPES
from server.rest.http.problems import ProblemEvent, problem_events
from server.rest.http.responses import JSON_HEADERS
from server.rest.query import name, parse_query
from server.services import Services

T = TypeVar("T")

PARAMETERS = ("source", "source_id", "type", "type_field", "time_field", "dedupe")


class RawReceiptBody(Struct, omit_defaults=True):
    """The response to a raw body. `errors` lists the first items that were rejected."""

    success: bool
    events_received: int
    errors: list[ProblemEvent] = []


class RawRequest(NamedTuple):
    """What the query of a request asks for."""

    query: RawQuery
    dedupe: bool
    """Whether the body's content makes its idempotency key."""


def ingest_raw(services: Services, read_body: BodyReader) -> Callable[[HTTPScope, Receive, Send], Awaitable[None]]:
    """`POST /api/v1/events` with a query. It raises what `RawIngest` and `reader` do."""

    async def handler(scope: HTTPScope, receive: Receive, send: Send) -> None:
        with services.requests.open("rest") as origin:
            headers = headers_of(scope)
            read = reader(scope, headers, read_body, receive)
            receipt, quota = await services.ingest_raw(origin, credentials_of(headers), read)
        body = msgspec.json.encode(receipt_body(receipt))
        fields = {"content-length": str(len(body)), **receipt_headers(receipt, headers), **quota_headers(quota)}
        encoded = [(field.encode(), value.encode()) for field, value in fields.items()]
        await send({"type": "http.response.start", "status": 201, "headers": [*JSON_HEADERS, *encoded]})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return handler


def reader(
    scope: HTTPScope, headers: Headers, read_body: BodyReader, receive: Receive
) -> Callable[[AdmittedRequest], Awaitable[RawBody]]:
    """What reads the raw body of a request once its key is admitted.

    It raises InvalidParameter, InvalidHeader, MalformedRequest, UnsupportedMediaType, and what `BodyReader` does.
    """

    async def read(request: AdmittedRequest) -> RawBody:
        query, dedupe = parse_raw_query(scope["query_string"])
        options = ingest_options_of(headers)
        if dedupe and options.idempotency_key is not None:
            raise InvalidParameter("dedupe: cannot be given with an Idempotency-Key, which it makes")
        body_format = body_format_of(headers, (*LINE_TYPES, JSON))
        body = await read_body(request, body_format, scope, receive)
        request.origin.size = len(body)
        split = splitting_json if body_format.media_type == JSON else splitting_lines
        return RawBody(
            size=len(body),
            items=partial(split, body),
            decoder=ItemDecoder(query),
            lenient=handling_of(headers.get("prefer", ())) != "strict",
            idempotency_key=options.idempotency_key,
            content=[msgspec.json.encode([*query, split is splitting_json]), body] if dedupe else None,
            unless_gone=partial(watch, receive),
        )

    return read


async def watch(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, unless the client goes away. Raises what `unless_gone` does."""
    return await unless_gone(work, receive)


def splitting_lines(body: bytes) -> Steps[Items]:
    """The lines of a body. Each is checked as it is decoded."""
    yield
    return lines(body)


def splitting_json(body: bytes) -> Steps[Items]:
    """The elements of a body, or the object that it is. Raises MalformedJson."""
    check_json(body)
    yield
    return elements(body)


def parse_raw_query(query: bytes) -> RawRequest:
    """What a query string asks for. Raises InvalidParameter, which names the parameter."""
    values = parse_query(query, PARAMETERS)
    source, source_id, event_type, type_field, time_field, dedupe = (name(values, each) for each in PARAMETERS)
    if source is None:
        raise InvalidParameter("source: is needed for a raw body; a batch has it in the body, and no query")
    if event_type is not None and type_field is not None:
        raise InvalidParameter("type_field: cannot be given with type: an event has one type")
    if time_field is not None and event_type is None and type_field is None:
        raise InvalidParameter("time_field: needs type or type_field: an item that is an event has a timestamp")
    if dedupe not in {None, "content"}:
        raise InvalidParameter("dedupe: may be content only")
    return RawRequest(RawQuery(source, source_id, event_type, type_field, time_field), dedupe is not None)


def receipt_headers(receipt: RawReceipt, headers: Headers) -> dict[str, str]:
    """The headers that say what was done with a body."""
    handling = handling_of(headers.get("prefer", ()))
    fields = {} if handling is None else {"preference-applied": f"handling={handling}"}
    return fields | ({"idempotent-replayed": "true"} if receipt.replayed else {})


def receipt_body(receipt: RawReceipt) -> RawReceiptBody:
    """The receipt as documented."""
    return RawReceiptBody(success=True, events_received=receipt.events_received, errors=problem_events(receipt.errors))
