"""Webhooks of a tenant and their deliveries: makes, lists, tests, rotates, resends and deletes."""

from datetime import datetime
from http import HTTPStatus
from uuid import UUID

from litestar.types import HTTPScope, Receive, Send
from msgspec import Struct

from server.core.alerts.model import AlertEvent
from server.core.deadline import Deadline
from server.core.times import format_time
from server.core.webhooks.model import Delivery, DeliveryEvent, DeliveryState, Format, Webhook
from server.core.webhooks.signatures import secret_text
from server.core.webhooks.webhooks import NO_DELIVERY, NO_WEBHOOK, WebhookFields
from server.rest.events import encode_json
from server.rest.http.headers import credentials_of, headers_of
from server.rest.http.json_body import JsonBodies
from server.rest.http.responses import send_json, send_nothing
from server.rest.keyed import Handler, id_of, with_key
from server.rest.query import number, parse_query
from server.services import Services

MAX_DELIVERIES = 100
DEFAULT_DELIVERIES = 20


class WebhookBody(Struct):
    """A webhook."""

    id: str
    name: str
    url: str
    events: list[AlertEvent]
    format: Format
    created_at: str
    disabled_at: str | None
    """When its receiver answered 410. A test that succeeds enables it again."""
    previous_secret_valid_until: str | None
    """Until when the secret before the last rotation signs too."""


class NewWebhookBody(WebhookBody, kw_only=True):
    """A webhook, with the secret that signs its deliveries. It is shown once."""

    secret: str


class AttemptBody(Struct):
    """One call of the receiver."""

    at: str
    duration_ms: int
    status: int | None
    """Null if there was no response."""
    response: str
    """The first 4 KiB of its body."""
    error: str | None
    """Why it failed; null if it succeeded."""


class DeliveryBody(Struct):
    """A message for a receiver, which knows its id as `webhook-id`."""

    id: str
    event: DeliveryEvent
    state: DeliveryState
    created_at: str
    next_attempt_at: str | None
    """Null if it is pending no longer."""
    attempts: list[AttemptBody]
    """The last ones, oldest first."""


def create_webhook(services: Services, bodies: JsonBodies) -> Handler:
    """`POST /api/v1/webhooks`. It raises what `authenticate`, `JsonBodies.read` and `Webhooks.create` do."""

    async def handler(scope: HTTPScope, receive: Receive, send: Send) -> None:
        with services.requests.open("rest", is_read=True):
            headers = headers_of(scope)
            key = await services.admission.authenticate(credentials_of(headers), "rules:write", Deadline())
            fields = await bodies.read(headers, receive, WebhookFields)
            created = await services.webhooks.create(key.tenant_id, fields, Deadline())
            await send_json(send, encode_json(new_webhook_body(created)), HTTPStatus.CREATED)

    return handler


def list_webhooks(services: Services) -> Handler:
    """`GET /api/v1/webhooks`."""

    async def respond(scope: HTTPScope, tenant_id: UUID, deadline: Deadline, send: Send) -> None:
        parse_query(scope["query_string"], ())
        found = await services.webhooks.of_tenant(tenant_id, deadline)
        await send_json(send, encode_json(list(map(webhook_body, found))))

    return with_key(services, "rules:read", respond)


def get_webhook(services: Services) -> Handler:
    """`GET /api/v1/webhooks/{webhook_id}`."""

    async def respond(scope: HTTPScope, tenant_id: UUID, deadline: Deadline, send: Send) -> None:
        found = await services.webhooks.get(tenant_id, webhook_id_of(scope), deadline)
        await send_json(send, encode_json(webhook_body(found)))

    return with_key(services, "rules:read", respond)


def delete_webhook(services: Services) -> Handler:
    """`DELETE /api/v1/webhooks/{webhook_id}`."""

    async def respond(scope: HTTPScope, tenant_id: UUID, deadline: Deadline, send: Send) -> None:
        await services.webhooks.delete(tenant_id, webhook_id_of(scope), deadline)
        await send_nothing(send)

    return with_key(services, "rules:write", respond)


def rotate_webhook(services: Services) -> Handler:
    """`POST /api/v1/webhooks/{webhook_id}/rotate`."""

    async def respond(scope: HTTPScope, tenant_id: UUID, deadline: Deadline, send: Send) -> None:
        rotated = await services.webhooks.rotate(tenant_id, webhook_id_of(scope), deadline)
        await send_json(send, encode_json(new_webhook_body(rotated)))

    return with_key(services, "rules:write", respond)


def test_webhook(services: Services) -> Handler:
    """`POST /api/v1/webhooks/{webhook_id}/test`."""

    async def respond(scope: HTTPScope, tenant_id: UUID, deadline: Deadline, send: Send) -> None:
        delivery = await services.webhooks.test(tenant_id, webhook_id_of(scope), deadline)
        await send_json(send, encode_json(delivery_body(delivery)), HTTPStatus.ACCEPTED)

    return with_key(services, "rules:write", respond)


def list_deliveries(services: Services) -> Handler:
    """`GET /api/v1/webhooks/{webhook_id}/deliveries`. It raises InvalidParameter too."""

    async def respond(scope: HTTPScope, tenant_id: UUID, deadline: Deadline, send: Send) -> None:
        values = parse_query(scope["query_string"], ("limit",))
        limit = number(values, "limit", default=DEFAULT_DELIVERIES, lowest=1, highest=MAX_DELIVERIES)
        newest = services.webhooks.newest_deliveries(tenant_id, webhook_id_of(scope), limit, deadline)
        async with newest as found:
            await send_json(send, encode_json(list(map(delivery_body, found))))

    return with_key(services, "rules:read", respond)


def resend_delivery(services: Services) -> Handler:
    """`POST /api/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/resend`."""

    async def respond(scope: HTTPScope, tenant_id: UUID, deadline: Deadline, send: Send) -> None:
        delivery_id = id_of(scope, "delivery_id", NO_DELIVERY)
        resent = await services.webhooks.resend(tenant_id, webhook_id_of(scope), delivery_id, deadline)
        await send_json(send, encode_json(delivery_body(resent)), HTTPStatus.ACCEPTED)

    return with_key(services, "rules:write", respond)


def webhook_id_of(scope: HTTPScope) -> UUID:
    """The id of a webhook in a path. Raises NotFound if it cannot be one."""
    return id_of(scope, "webhook_id", NO_WEBHOOK)


def webhook_body(webhook: Webhook) -> WebhookBody:
    """A webhook as it is shown."""
    return WebhookBody(
        id=str(webhook.id),
        name=webhook.name,
        url=webhook.url,
        events=list(webhook.events),
        format=webhook.format,
        created_at=format_time(webhook.created_at),
        disabled_at=optional_time(webhook.disabled_at),
        previous_secret_valid_until=optional_time(webhook.secrets.previous_until),
    )


def new_webhook_body(webhook: Webhook) -> NewWebhookBody:
    """A webhook as it is shown when it has a new secret."""
    shown = webhook_body(webhook)
    fields = {field: getattr(shown, field) for field in WebhookBody.__struct_fields__}
    return NewWebhookBody(**fields, secret=secret_text(webhook.secrets.current))


def delivery_body(delivery: Delivery) -> DeliveryBody:
    """A delivery as it is shown."""
    return DeliveryBody(
        id=str(delivery.id),
        event=delivery.event,
        state=delivery.state,
        created_at=format_time(delivery.created_at),
        next_attempt_at=optional_time(delivery.due_at),
        attempts=[
            AttemptBody(format_time(each.at), each.duration_ms, each.status, each.response, each.error)
            for each in delivery.attempts
        ],
    )


def optional_time(moment: datetime | None) -> str | None:
    """A time as it is shown; None if there is none."""
    return None if moment is None else format_time(moment)
