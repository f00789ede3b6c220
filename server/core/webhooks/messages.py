"""Makes deliveries: of a transition for each webhook that wants it, and of a test."""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from server.core.alerts.model import Alert, Transition
from server.core.rules.model import Window
from server.core.times import to_milliseconds
from server.core.webhooks.formats import body_of
from server.core.webhooks.model import Delivery, Webhook

TIME_BITS = 48
VERSION, VARIANT = 0x7 << 76, 0b10 << 62
HASH_MASK = (1 << 128 - TIME_BITS) - 1 & ~(0xF << 76) & ~(0b11 << 62)


def deliveries_of(webhooks: Iterable[Webhook], transition: Transition) -> list[Delivery]:
    """A delivery of a transition for each webhook that wants its event and is not disabled.

    The same webhooks and transition give the same deliveries.
    """
    return [
        Delivery(
            id=message_id(transition.at, transition.id, webhook.id),
            tenant_id=webhook.tenant_id,
            webhook_id=webhook.id,
            subject=transition.alert.rule_id,
            event=transition.event,
            body=body_of(webhook.format, transition.event, transition.at, transition.alert),
            created_at=transition.at,
            due_at=transition.at,
        )
        for webhook in webhooks
        if webhook.disabled_at is None and transition.event in webhook.events
    ]


def delivery_of_test(webhook: Webhook, at: datetime) -> Delivery:
    """A delivery with which a tenant tries a webhook. Those of one second are one, so their number is bounded."""
    second = at.replace(microsecond=0)
    own_id = message_id(second, webhook.id, webhook.id)
    return Delivery(
        id=own_id,
        tenant_id=webhook.tenant_id,
        webhook_id=webhook.id,
        subject=own_id,
        event="webhook.test",
        body=body_of(webhook.format, "webhook.test", second, example_alert(webhook, second)),
        created_at=second,
        due_at=second,
    )


def example_alert(webhook: Webhook, at: datetime) -> Alert:
    """The alert in a test."""
    end_ms = to_milliseconds(at.replace(second=0))
    return Alert(
        id=webhook.id,
        tenant_id=webhook.tenant_id,
        rule_id=webhook.id,
        rule_name="Sluice test",
        severity="info",
        message=f"This is a test of the webhook {webhook.name}: no rule is firing",
        value=None,
        window=Window(end_ms - 60_000, end_ms),
        event_ids=(),
        created_at=at,
    )


def message_id(at: datetime, subject: UUID, webhook_id: UUID) -> UUID:
    """The id of a message: a UUIDv7 whose random bits are a hash, so that it is the same whenever it is made."""
    hashed = int.from_bytes(hashlib.sha256(subject.bytes + webhook_id.bytes).digest()[:16], "big")
    return UUID(int=to_milliseconds(at) << 128 - TIME_BITS | VERSION | VARIANT | hashed & HASH_MASK)
