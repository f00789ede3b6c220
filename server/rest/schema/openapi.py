"""The OpenAPI document.

The shapes come from the structs that decode and encode them, so the document cannot differ from the code. The tests
check every route and every response against it.
"""

from collections.abc import Awaitable, Callable
from importlib.metadata import version

import msgspec
from litestar import Response

from server.core.alerts.body import AlertBody
from server.core.errors import Code
from server.core.events.model import MAX_BODY_BYTES, Batch, EventBody
from server.core.ingest.idempotency import MAX_IDEMPOTENCY_KEY_CHARS
from server.core.rules.config import CONFIGS
from server.core.rules.fields import RuleFields
from server.core.webhooks.webhooks import WebhookFields
from server.rest.event_types import EventTypeBody
from server.rest.http.problems import ProblemBody
from server.rest.ingest import ReceiptBody
from server.rest.raw import RawReceiptBody
from server.rest.rejections import RejectionBody
from server.rest.rules import EvaluationBody, RuleBody
from server.rest.schema import raw_bodies
from server.rest.schema.activity import list_rejections_operation, show_usage_operation
from server.rest.schema.alerts import alert_paths
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
from server.rest.schema.reads import get_operation, list_operation, list_types_operation, tail_operation
from server.rest.schema.rules import complete_rule_schemas, rule_paths
from server.rest.schema.webhooks import webhook_paths
from server.rest.usage import UsageBody
from server.rest.webhooks import DeliveryBody, NewWebhookBody, WebhookBody

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

TIME_FIELDS = (
    "received_at",
    "timestamp",
    "time",
    "window_start",
    "window_end",
    "resolved_at",
    "acknowledged_at",
    "created_at",
    "updated_at",
    "evaluated_until",
    "disabled_at",
    "previous_secret_valid_until",
    "at",
    "next_attempt_at",
)
TIME = "In UTC, without a zone: `YYYY-MM-DDTHH:MM:SS`, and `.mmm` unless that is zero"
TIMES = (
    'All times are in UTC, and are shown without a zone. To read one: `new Date(event.received_at + "Z")` in '
    "JavaScript, `LocalDateTime.parse(receivedAt).toInstant(ZoneOffset.UTC)` in Java."
)

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
            "/api/v1/rejections": {"get": list_rejections_operation()},
            "/api/v1/usage": {"get": show_usage_operation()},
            **rule_paths(),
            **alert_paths(),
            **webhook_paths(),
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
        [
            Batch,
            ReceiptBody,
            RawReceiptBody,
            EventBody,
            EventTypeBody,
            RejectionBody,
            UsageBody,
            *CONFIGS.values(),
            RuleFields,
            RuleBody,
            EvaluationBody,
            AlertBody,
            WebhookFields,
            WebhookBody,
            NewWebhookBody,
            DeliveryBody,
            ProblemBody,
        ],
        ref_template="#/components/schemas/{name}",
    )
    complete_rule_schemas(components)
    for component in components.values():
        for name, schema in component.get("properties", {}).items():
            if name in TIME_FIELDS:
                schema.setdefault("description", TIME)
            if schema.get("default", "") is None:
                del schema["default"]  # generators take a field with a default for one that is always there
            for form in (schema, *schema.get("anyOf", ())):
                if form.get("type") == "object":
                    form.setdefault("additionalProperties", True)  # otherwise generators take it for an empty object
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
            header("X-Request-ID", {"type": "string", "description": "A UUID, or digits of a hash, for the log"}),
            header("traceparent", {"type": "string", "description": "The client's span (W3C Trace Context)"}),
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


def health_operation(operation_id: str, summary: str, codes: list[Code]) -> Json:
    """A health endpoint: it needs no key."""
    status = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}
    return {
        "operationId": operation_id,
        "summary": summary,
        "security": [],
        "responses": {"200": success_response("Yes", status), **problem_responses(codes)},
    }
