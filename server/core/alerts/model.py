"""Alerts, and their transitions, which webhooks deliver."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from msgspec import Struct

from server.core.rules.model import Severity, Window
from server.core.times import format_time, from_milliseconds

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


class AlertBody(Struct):
    """An alert as clients and webhooks see it."""

    id: UUID
    rule_id: UUID
    rule_name: str
    severity: Severity
    message: str
    value: float | None
    window_start: str
    window_end: str
    event_ids: tuple[str, ...]
    """Events for which it fired: at most 5."""
    is_resolved: bool
    resolved_at: str | None
    is_acknowledged: bool
    acknowledged_at: str | None
    created_at: str


def body_of(alert: Alert) -> AlertBody:
    """An alert as clients and webhooks see it."""
    return AlertBody(
        id=alert.id,
        rule_id=alert.rule_id,
        rule_name=alert.rule_name,
        severity=alert.severity,
        message=alert.message,
        value=alert.value,
        window_start=format_time(from_milliseconds(alert.window.start_ms)),
        window_end=format_time(from_milliseconds(alert.window.end_ms)),
        event_ids=alert.event_ids,
        is_resolved=alert.resolved_at is not None,
        resolved_at=format_optional(alert.resolved_at),
        is_acknowledged=alert.acknowledged_at is not None,
        acknowledged_at=format_optional(alert.acknowledged_at),
        created_at=format_time(alert.created_at),
    )


def format_optional(moment: datetime | None) -> str | None:
    """A moment as it is shown; None if there is none."""
    return None if moment is None else format_time(moment)
