"""What the OpenAPI document says about raw bodies: parameters, content types and an example of each."""

from server.core.events.model import MAX_BATCH_EVENTS, MAX_NAME_CHARS
from server.rest.http.negotiation import LINE_TYPES
from server.rest.schema.parts import Json

NAME: Json = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARS}

LINES = '{"kind": "purchase", "ts": 1772366400, "value": 99.99}\n{"kind": "signup", "ts": 1772366401}\n'

DESCRIPTION = (
    "With `source` in the query the body is **raw**: one item a line, an array of items, or one item, and not a batch. "
    f"There is no limit on the number of items; they are stored in batches of at most {MAX_BATCH_EVENTS}, in order. "
    "Handling is lenient unless `Prefer: handling=strict` is sent, which is possible up to "
    f"{MAX_BATCH_EVENTS} items. The path of an error, such as `items[3].data`, has the index of the item from 0; blank "
    "lines are skipped and not counted. If the database fails midway, the 503 says by `events_received` how many "
    "events are certainly stored."
)

PARAMETERS = {
    "source": (NAME, "The source of all events. Says that the body is raw"),
    "source_id": (NAME, "Which instance of the source"),
    "type": (NAME, "The type of all events. Each item, an object, is the `data` of one"),
    "type_field": (NAME, "The field of each item that holds the type. Each item is the `data` of an event"),
    "time_field": (
        NAME,
        "The field of each item that holds its timestamp: ISO 8601 as text, or a number of seconds since 1970, or of "
        "milliseconds from 10^11 on. An item without it has the time of receipt. Needs `type` or `type_field`",
    ),
    "dedupe": (
        {"type": "string", "enum": ["content"]},
        "Makes the idempotency key from the tenant, the query and the bytes of the body, decompressed",
    ),
}
"""The schema and the description of each."""

JSON_ITEMS: list[Json] = [
    {"type": "array", "minItems": 1, "items": {"type": "object"}, "description": "Items of a raw body"},
    {"type": "object", "description": "The only item of a raw body"},
]


def line_contents() -> Json:
    """The content types of bodies with one item a line."""
    schema = {"type": "string", "description": "One item a line, as JSON"}
    return {media_type: {"schema": schema, "example": LINES} for media_type in LINE_TYPES}
