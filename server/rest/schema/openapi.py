"""The OpenAPI document.

The shapes come from the structs that decode and encode them, so the document cannot differ from the code. The tests
check every route and every response against it.
"""

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

import msgspec
from litestar import Response

from server.core.errors import Code
from server.core.events.model import (
    DEFAULT_PAGE_EVENTS,
    MAX_BODY_BYTES,
    MAX_NAME_CHARS,
    MAX_PAGE_EVENTS,
    Batch,
    EventBody,
)
from server.core.exports import KEEP_ALIVE_S
from server.core.ingest.idempotency import MAX_IDEMPOTENCY_KEY_CHARS
from server.rest.event_types import EventTypeBody
from server.rest.http.negotiation import NDJSON
from server.rest.http.problems import PROBLEM_JSON, ProblemBody
from server.rest.ingest import ReceiptBody
from server.rest.query import MAX_SKIP, NEWEST_FIRST, OLDEST_FIRST
from server.rest.raw import RawReceiptBody
from server.rest.schema import raw_bodies
from server.status import STATUS

Json = dict[str, Any]

EXAMPLE_BATCH: Json = {
    "source": "backend",
    "events": [{"type": "purchase", "data": {"transaction_id": "TXN-001", "value": 99.99, "currency": "USD"}}],
}

SECURITY_SCHEMES: Json = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "The key as the token"},
    "basic": {"type": "http", "scheme": "basic", "description": "The key as the user name or as the password"},
}
"""The places where a request may name its key. It names it in one of them."""

TIME_FIELDS = ("received_at", "timestamp")
TIME = "In UTC, without a zone: `YYYY-MM-DDTHH:MM:SS`, and `.mmm` unless that is zero"
TIMES = (
    'All times are in UTC, and are shown without a zone. To read one: `new Date(event.received_at + "Z")` in '
    "JavaScript, `LocalDateTime.parse(receivedAt).toInstant(ZoneOffset.UTC)` in Java."
)

EXPORT = (
    f"With `Accept: {NDJSON}`, every event that matches is sent, one a line, in the form of the list, and compressed "
    "if `Accept-Encoding` allows. Every event that was there at the start comes once. An export that fails midway ends "
    "without its last chunk. To go on, send the same request with `after`, the `id` in the last whole line that has "
    f"one. If no event matches for {KEEP_ALIVE_S:.0f} s, an empty line is sent. `limit`, `skip` and `cursor` are for "
    "lists; `order` and `after` are for exports."
)

WIRE_CODES = (Code.MALFORMED_REQUEST, Code.REQUEST_TIMEOUT, Code.HEADERS_TOO_LARGE)
"""Errors of any request, before its path is known."""

ACCESS_CODES = (Code.UNAUTHENTICATED, Code.INSUFFICIENT_SCOPE, Code.DOMAIN_NOT_ALLOWED, Code.UNAVAILABLE)
INGEST_CODES = (
    Code.MALFORMED_JSON,
    Code.INVALID_BATCH,
    Code.INVALID_HEADER,
    Code.INVALID_PARAMETER,
    *ACCESS_CODES,
    Code.PAYLOAD_TOO_LARGE,
    Code.UNSUPPORTED_MEDIA_TYPE,
    Code.IDEMPOTENCY_CONFLICT,
    Code.RATE_LIMITED,
)

REPLAY_HEADER: Json = {
    "Idempotent-Replayed": {
        "description": "Present if an earlier request had the same `Idempotency-Key`, whose ids and time these are",
        "schema": {"type": "string", "enum": ["true"]},
    }
}

QUOTA_HEADERS: Json = {
    "RateLimit-Policy": {
        "description": 'Requests admitted in a window of w seconds, such as `"default";q=1000;w=60`; absent without a '
        "rate limit",
        "schema": {"type": "string"},
    },
    "RateLimit": {
        "description": 'Requests that remain, and seconds until there are more, such as `"default";r=998;t=61`',
        "schema": {"type": "string"},
    },
}


def openapi_json() -> Callable[[], Awaitable[Response[bytes]]]:
    """`GET /schema/openapi.json`."""
    body = msgspec.json.encode(openapi_document())

    async def handler() -> Response[bytes]:
        return Response(body, headers={"Cache-Control": "no-cache"}, media_type="application/json")

    return handler


def openapi_document() -> Json:
    """The whole document, as OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sluice",
            "version": version("sluice"),
            "description": "Send batches of events; they are stored in MongoDB once they are acknowledged. " + TIMES,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "This server"}],
        "security": [{scheme: []} for scheme in SECURITY_SCHEMES],
        "paths": {
            "/api/v1/events": {"post": ingest_operation(), "get": list_operation()},
            "/api/v1/events/tail": {"get": tail_operation()},
            "/api/v1/events/{event_id}": {"get": get_operation()},
            "/api/v1/event-types": {"get": list_types_operation()},
            "/health/live": {"get": health_operation("getLive", "Whether the process works", [])},
            "/health/ready": {"get": health_operation("getReady", "Whether events can be taken", [Code.UNAVAILABLE])},
        },
        "components": {
            "schemas": schemas(),
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


def schemas() -> Json:
    """The shapes of bodies, in a form from which generators make usable types."""
    _, components = msgspec.json.schema_components(
        [Batch, ReceiptBody, RawReceiptBody, EventBody, EventTypeBody, ProblemBody],
        ref_template="#/components/schemas/{name}",
    )
    for component in components.values():
        for name, schema in component.get("properties", {}).items():
            if name in TIME_FIELDS:
                schema.setdefault("description", TIME)
            if schema.get("default", "") is None:
                del schema["default"]  # generators take a field with a default for one that is always there
            for form in (schema, *schema.get("anyOf", ())):
                if form.get("type") == "object":
                    form["additionalProperties"] = True  # otherwise generators take it for an empty object
    return components


def ingest_operation() -> Json:
    """`POST /api/v1/events`."""
    return {
        "operationId": "ingestEvents",
        "summary": "Store a batch of events",
        "description": "The batch is stored as a whole or rejected as a whole, unless `Prefer: handling=lenient` asks "
        "for what is good of it. Sent again under the same `Idempotency-Key`, it is not stored again.\n\n"
        + raw_bodies.DESCRIPTION,
        "parameters": [
            *(query(name, *schema_and_text) for name, schema_and_text in raw_bodies.PARAMETERS.items()),
            header("Idempotency-Key", {"type": "string", "pattern": f"^[!-~]{{1,{MAX_IDEMPOTENCY_KEY_CHARS}}}$"}),
            header("Prefer", {"type": "string", "description": "handling=strict (default) or handling=lenient"}),
            header("Content-Encoding", {"type": "string", "enum": ["identity", "gzip", "zstd"]}),
        ],
        "requestBody": {
            "required": True,
            "description": f"At most {MAX_BODY_BYTES >> 20} MiB, before and after decompression.",
            "content": {
                "application/json": {
                    "schema": {"anyOf": [reference("Batch"), *raw_bodies.JSON_ITEMS]},
                    "example": EXAMPLE_BATCH,
                },
                **raw_bodies.line_contents(),
            },
        },
        "responses": {
            "201": {
                **success_response(
                    "Stored on a majority of the replica set",
                    {"anyOf": [reference("ReceiptBody"), reference("RawReceiptBody")]},
                ),
                "headers": {"Preference-Applied": {"schema": {"type": "string"}}, **REPLAY_HEADER, **QUOTA_HEADERS},
            },
            **problem_responses(INGEST_CODES),
        },
    }


def list_operation() -> Json:
    """`GET /api/v1/events`."""
    name = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARS}
    source_id = {"type": "string", "maxLength": MAX_NAME_CHARS}
    time = {"type": "string", "format": "iso-8601", "description": "ISO 8601; UTC unless it says otherwise"}
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_PAGE_EVENTS, "default": DEFAULT_PAGE_EVENTS}
    return {
        "operationId": "listEvents",
        "summary": "List events, newest first, or export all",
        "description": EXPORT,
        "parameters": [
            query("source", name, "Only events of this source"),
            query("event_type", name, "Only events of this type"),
            query("source_id", source_id, "Only events of this instance of a source"),
            query("since", time, "Only events received at or after this time"),
            query("until", time, "Only events received before this time"),
            query("limit", limit, "How many"),
            query("skip", {"type": "integer", "minimum": 0, "maximum": MAX_SKIP, "default": 0}, "After how many"),
            query("cursor", {"type": "string"}, "Where the page starts: from the `Link` header of the page before"),
            query(
                "order", {"type": "string", "enum": [OLDEST_FIRST, NEWEST_FIRST]}, "Of an export: oldest first, or not"
            ),
            query("after", {"type": "string", "format": "uuid"}, "Of an export: behind the event with this id"),
            header("Accept-Encoding", {"type": "string", "description": "Of an export: gzip, zstd or identity"}),
        ],
        "responses": {
            "200": {
                "description": "The events",
                "content": {
                    "application/json": {"schema": {"type": "array", "items": reference("EventBody")}},
                    NDJSON: {"schema": {"type": "string", "description": "An `EventBody` on each line"}},
                },
                "headers": {
                    "Content-Encoding": {"description": "Of an export", "schema": {"type": "string"}},
                    "Link": {
                        "description": 'The next page, as `<URL>; rel="next"`. Without it, the list is at its end. A '
                        "page may be short, or empty, and have one: rare events are searched for about a second.",
                        "schema": {"type": "string"},
                    },
                },
            },
            **problem_responses((Code.INVALID_PARAMETER, Code.INVALID_HEADER, *ACCESS_CODES)),
        },
    }


def tail_operation() -> Json:
    """`GET /api/v1/events/tail`."""
    name = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARS}
    time = {"type": "string", "format": "iso-8601", "description": "ISO 8601; UTC unless it says otherwise"}
    return {
        "operationId": "tailEvents",
        "summary": "Follow events as they are stored",
        "description": "Server-Sent Events. Each message has an `event`, a resume token as its `id`, and `data` in one "
        "line: `event` with an event as the list shows it, `caught_up` when all that was stored is sent, `heartbeat` "
        "if nothing was stored for 10 s, and `end` with a `code` and a `detail` when the stream ends. With the last "
        "token in `Last-Event-ID`, a new request goes on right after that message: nothing is missing and nothing "
        "comes twice, on any server.",
        "parameters": [
            query("source", name, "Only events of this source"),
            query("event_type", name, "Only events of this type"),
            query("since", time, "First read what was received at or after this time; not used with a token"),
            header("Last-Event-ID", {"type": "string", "description": "The `id` of the last message received"}),
        ],
        "responses": {
            "200": {
                "description": "The messages",
                "content": {"text/event-stream": {"schema": {"type": "string"}}},
                "headers": QUOTA_HEADERS,
            },
            **problem_responses(
                (Code.INVALID_PARAMETER, Code.INVALID_HEADER, *ACCESS_CODES, Code.GONE, Code.RATE_LIMITED)
            ),
        },
    }


def list_types_operation() -> Json:
    """`GET /api/v1/event-types`."""
    return {
        "operationId": "listEventTypes",
        "summary": "List the sources and types that were sent",
        "description": "`last_seen` may lag by a minute.",
        "responses": {
            "200": success_response("The types", {"type": "array", "items": reference("EventTypeBody")}),
            **problem_responses((Code.INVALID_PARAMETER, *ACCESS_CODES)),
        },
    }


def get_operation() -> Json:
    """`GET /api/v1/events/{id}`."""
    return {
        "operationId": "getEvent",
        "summary": "Read one event",
        "parameters": [
            {"name": "event_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
        ],
        "responses": {
            "200": success_response("The event", reference("EventBody")),
            **problem_responses((Code.NOT_FOUND, *ACCESS_CODES)),
        },
    }


def health_operation(operation_id: str, summary: str, codes: list[Code]) -> Json:
    """A health endpoint: it needs no key."""
    status = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}
    return {
        "operationId": operation_id,
        "summary": summary,
        "security": [],
        "responses": {"200": success_response("Yes", status), **problem_responses(codes)},
    }


def problem_responses(codes: tuple[Code, ...] | list[Code]) -> Json:
    """The error responses for `codes` and WIRE_CODES, by status."""
    by_status: dict[str, list[Code]] = {}
    for code in (*WIRE_CODES, *codes):
        by_status.setdefault(str(STATUS[code].http.value), []).append(code)
    return {status: problem_response(sharing) for status, sharing in sorted(by_status.items())}


def problem_response(codes: list[Code]) -> Json:
    """The error response for codes that share a status."""
    response: Json = {
        "description": " or ".join(f"`{code}`" for code in codes),
        "content": {PROBLEM_JSON: {"schema": reference("ProblemBody")}},
    }
    if Code.UNAUTHENTICATED in codes:
        response["headers"] = {"WWW-Authenticate": {"description": "The challenge", "schema": {"type": "string"}}}
    if Code.UNSUPPORTED_MEDIA_TYPE in codes:
        response["headers"] = {
            "Accept-Encoding": {"description": "The encodings there are", "schema": {"type": "string"}}
        }
    if any(STATUS[code].retryable for code in codes):
        response["headers"] = {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}
    if Code.RATE_LIMITED in codes:
        response["headers"].update(QUOTA_HEADERS)
    return response


def success_response(description: str, schema: Json) -> Json:
    """A JSON response."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def header(name: str, schema: Json) -> Json:
    """An optional request header."""
    return {"name": name, "in": "header", "required": False, "schema": schema}


def query(name: str, schema: Json, description: str) -> Json:
    """An optional query parameter."""
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def reference(name: str) -> Json:
    """A schema of the components."""
    return {"$ref": f"#/components/schemas/{name}"}
