"""Alerts, and their transitions, which webhooks deliver."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct

from server.core.rules.model import Severity, Window

AlertEvent = Literal["alert.opened", "alert.resolved"]

Resolution = Literal["condition", "manual", "rule_deleted", "rule_disabled"]
"""Why an alert was resolved: its rule no longer fires, or somebody did so by hand, or deleted or disabled the rule."""


class Alert(Struct, kw_only=True, frozen=True):
    """An alert. A rule has at most one that is open."""

    id: UUID
    tenant_id: UUID
    rule_id: UUID
    rule_name: str
    severity: Severity
    message: str
    """Of the last evaluation that fired."""
    value: float | None
    window: Window
    event_ids: tuple[str, ...]
    created_at: datetime
    resolved_at: datetime | None = None
    resolution: Resolution | None = None
    acknowledged_at: datetime | None = None
    """By hand; it stays open."""


class Transition(Struct, kw_only=True, frozen=True):
    """An alert was opened or resolved. Its id is the same for every copy that a webhook gets."""

    id: UUID
    event: AlertEvent
    at: datetime
    alert: Alert
