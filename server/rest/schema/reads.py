"""What the OpenAPI document says about reads: lists, exports, tails, and single events."""

from server.core.errors import Code
from server.core.events.model import DEFAULT_PAGE_EVENTS, MAX_NAME_CHARS, MAX_PAGE_EVENTS
from server.core.exports import KEEP_ALIVE_S
from server.rest.http.negotiation import NDJSON
from server.rest.query import MAX_SKIP, NEWEST_FIRST, OLDEST_FIRST
from server.rest.schema.parts import (
    ACCESS_CODES,
    QUOTA_HEADERS,
    Json,
    header,
    problem_responses,
    query,
    reference,
    success_response,
)

EXPORT = (
    f"With `Accept: {NDJSON}`, every event that matches is sent, one a line, in the form of the list, and compressed "
    "if `Accept-Encoding` allows. Every event that was there at the start comes once. An export that fails midway ends "
    "without its last chunk. To go on, send the same request with `after`, the `id` in the last whole line that has "
    f"one. If no event matches for {KEEP_ALIVE_S:.0f} s, an empty line is sent. `limit`, `skip` and `cursor` are for "
    "lists; `order` and `after` are for exports."
)


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
