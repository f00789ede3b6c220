"""Webhooks, and the deliveries that are made to them."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct

from server.core.alerts.model import AlertEvent

Format = Literal["standard", "slack", "alertmanager"]

DeliveryEvent = AlertEvent | Literal["webhook.test"]

DeliveryState = Literal["pending", "delivered", "failed"]

MAX_WEBHOOKS = 20
"""Webhooks of a tenant. Each transition is stored and sent once for each of them."""

MAX_NAME_CHARS = 255
MAX_URL_CHARS = 2_048

MAX_RESPONSE_BYTES = 4_096
"""How much of a response is kept."""

MAX_KEPT_ATTEMPTS = 8
"""Attempts that a delivery keeps, the last ones: all of one round of the schedule."""


class Secrets(Struct, frozen=True):
    """What signs the deliveries of a webhook. After a rotation the secret before signs too, until a moment."""

    current: bytes
    previous: bytes | None = None
    previous_until: datetime | None = None


class Webhook(Struct, kw_only=True, frozen=True):
    """Where a tenant wants its alerts delivered."""

    id: UUID
    tenant_id: UUID
    name: str
    url: str
    events: tuple[AlertEvent, ...]
    format: Format
    secrets: Secrets
    created_at: datetime
    disabled_at: datetime | None = None
    """When its receiver said that it is gone (410). A test that succeeds enables it again."""


class Attempt(Struct, kw_only=True, frozen=True):
    """One call of a receiver."""

    at: datetime
    duration_ms: int
    status: int | None
    """None if there was no response."""
    response: str
    """The first MAX_RESPONSE_BYTES of its body."""
    error: str | None
    """Why it failed; None if it succeeded."""


class Delivery(Struct, kw_only=True, frozen=True):
    """A message for a webhook. Its id and body never change, so every copy that the receiver gets is the same."""

    id: UUID
    tenant_id: UUID
    webhook_id: UUID
    subject: UUID
    """The rule whose alert it tells of. Deliveries of one subject to one webhook are sent one after the other."""
    event: DeliveryEvent
    body: bytes
    created_at: datetime
    due_at: datetime | None
    """When it is sent next; None if it is pending no longer."""
    state: DeliveryState = "pending"
    tries: int = 0
    """Attempts since it was created or resent."""
    attempts: tuple[Attempt, ...] = ()
