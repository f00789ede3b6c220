"""What the OpenAPI document says about webhooks."""

from server.core.errors import Code
from server.core.webhooks.model import MAX_WEBHOOKS
from server.core.webhooks.schedule import DELAYS_S
from server.rest.schema.parts import ACCESS_CODES, Json, problem_responses, query, reference, success_response
from server.rest.webhooks import DEFAULT_DELIVERIES, MAX_DELIVERIES

COMMON_CODES = (Code.INVALID_HEADER, *ACCESS_CODES)

BODY_CODES = (
    Code.MALFORMED_JSON,
    Code.INVALID_PARAMETER,
    Code.CONFLICT,
    Code.PAYLOAD_TOO_LARGE,
    Code.UNSUPPORTED_MEDIA_TYPE,
)

EXAMPLE: Json = {
    "name": "on call",
    "url": "https://example.com/alerts",
    "events": ["alert.opened", "alert.resolved"],
    "format": "standard",
}

WEBHOOK_ID: Json = {
    "name": "webhook_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "format": "uuid"},
}
DELIVERY_ID: Json = {**WEBHOOK_ID, "name": "delivery_id"}


def webhook_paths() -> Json:
    """The operations on webhooks, by path."""
    return {
        "/api/v1/webhooks": {"post": create_operation(), "get": list_operation()},
        "/api/v1/webhooks/{webhook_id}": {"get": get_operation(), "delete": delete_operation()},
        "/api/v1/webhooks/{webhook_id}/test": {"post": test_operation()},
        "/api/v1/webhooks/{webhook_id}/rotate": {"post": rotate_operation()},
        "/api/v1/webhooks/{webhook_id}/deliveries": {"get": list_deliveries_operation()},
        "/api/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/resend": {"post": resend_operation()},
    }


def create_operation() -> Json:
    """`POST /api/v1/webhooks`."""
    return {
        "operationId": "createWebhook",
        "summary": "Let alerts be delivered to a URL",
        "description": "The response has the secret that signs the deliveries by Standard Webhooks 1.0. It is shown "
        f"once. Only 2xx is success; redirects are not followed. A delivery that fails is tried {len(DELAYS_S)} times "
        "again over 17 hours, later if the receiver asks for it by `Retry-After`. A receiver that answers 410 disables "
        "the webhook. Each delivery comes at least once, and each copy has the same `webhook-id` and body. `slack` "
        "sends a text for an incoming webhook, and `alertmanager` is for `/api/v2/alerts` of Alertmanager. Addresses "
        f"that are not public are refused, unless the operator allows them. A tenant has at most {MAX_WEBHOOKS}.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": reference("WebhookFields"), "example": EXAMPLE}},
        },
        "responses": {
            "201": success_response("The webhook with its secret", reference("NewWebhookBody")),
            **problem_responses((*BODY_CODES, *COMMON_CODES)),
        },
    }


def list_operation() -> Json:
    """`GET /api/v1/webhooks`."""
    return {
        "operationId": "listWebhooks",
        "summary": "List webhooks, oldest first",
        "responses": {
            "200": success_response("The webhooks", {"type": "array", "items": reference("WebhookBody")}),
            **problem_responses((Code.INVALID_PARAMETER, *COMMON_CODES)),
        },
    }


def get_operation() -> Json:
    """`GET /api/v1/webhooks/{webhook_id}`."""
    return {
        "operationId": "getWebhook",
        "summary": "Get one webhook",
        "parameters": [WEBHOOK_ID],
        "responses": {
            "200": success_response("The webhook", reference("WebhookBody")),
            **problem_responses((Code.NOT_FOUND, *COMMON_CODES)),
        },
    }


def delete_operation() -> Json:
    """`DELETE /api/v1/webhooks/{webhook_id}`."""
    return {
        "operationId": "deleteWebhook",
        "summary": "Delete a webhook and its deliveries",
        "parameters": [WEBHOOK_ID],
        "responses": {
            "204": {"description": "Deleted: nothing more is sent"},
            **problem_responses((Code.NOT_FOUND, *COMMON_CODES)),
        },
    }


def rotate_operation() -> Json:
    """`POST /api/v1/webhooks/{webhook_id}/rotate`."""
    return {
        "operationId": "rotateWebhook",
        "summary": "Give a webhook a new secret",
        "parameters": [WEBHOOK_ID],
        "description": "For 24 hours deliveries are signed with both secrets, until "
        "`previous_secret_valid_until`. Of three secrets within that time, the oldest signs no longer.",
        "responses": {
            "200": success_response("The webhook with its new secret", reference("NewWebhookBody")),
            **problem_responses((Code.NOT_FOUND, *COMMON_CODES)),
        },
    }


def test_operation() -> Json:
    """`POST /api/v1/webhooks/{webhook_id}/test`."""
    return {
        "operationId": "testWebhook",
        "summary": "Send a test",
        "parameters": [WEBHOOK_ID],
        "description": "Its event is `webhook.test`. What became of it is in the list of deliveries. If it succeeds, a "
        "webhook that was disabled is enabled again. Tests of one second are one.",
        "responses": {
            "202": success_response("The delivery, which is sent at once", reference("DeliveryBody")),
            **problem_responses((Code.NOT_FOUND, *COMMON_CODES)),
        },
    }


def list_deliveries_operation() -> Json:
    """`GET /api/v1/webhooks/{webhook_id}/deliveries`."""
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_DELIVERIES, "default": DEFAULT_DELIVERIES}
    return {
        "operationId": "listDeliveries",
        "summary": "List the deliveries to a webhook, newest first",
        "description": "They are kept for a week after their last attempt.",
        "parameters": [WEBHOOK_ID, query("limit", limit, "How many")],
        "responses": {
            "200": success_response("The deliveries", {"type": "array", "items": reference("DeliveryBody")}),
            **problem_responses((Code.INVALID_PARAMETER, Code.NOT_FOUND, *COMMON_CODES)),
        },
    }


def resend_operation() -> Json:
    """`POST /api/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/resend`."""
    return {
        "operationId": "resendDelivery",
        "summary": "Send a delivery again",
        "parameters": [WEBHOOK_ID, DELIVERY_ID],
        "description": "The same id and body, with all attempts before it.",
        "responses": {
            "202": success_response("The delivery, which is sent at once", reference("DeliveryBody")),
            **problem_responses((Code.NOT_FOUND, *COMMON_CODES)),
        },
    }
