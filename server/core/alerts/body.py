"""An alert as clients see it: over REST, and in what webhooks deliver."""

from msgspec import Struct

from server.core.alerts.model import Alert
from server.core.rules.model import Severity
from server.core.times import format_time, from_milliseconds


class AlertBody(Struct):
    """An alert. Times are in UTC."""

    id: str
    rule_id: str
    rule_name: str
    severity: Severity
    message: str
    value: float | None
    window_start: str
    window_end: str
    event_ids: list[str]
    is_resolved: bool
    resolved_at: str | None
    is_acknowledged: bool
    acknowledged_at: str | None
    created_at: str


def alert_body(alert: Alert) -> AlertBody:
    """An alert as it is shown."""
    return AlertBody(
        id=str(alert.id),
        rule_id=str(alert.rule_id),
        rule_name=alert.rule_name,
        severity=alert.severity,
        message=alert.message,
        value=alert.value,
        window_start=format_time(from_milliseconds(alert.window.start_ms)),
        window_end=format_time(from_milliseconds(alert.window.end_ms)),
        event_ids=list(alert.event_ids),
        is_resolved=alert.resolved_at is not None,
        resolved_at=format_time(alert.resolved_at) if alert.resolved_at else None,
        is_acknowledged=alert.acknowledged_at is not None,
        acknowledged_at=format_time(alert.acknowledged_at) if alert.acknowledged_at else None,
        created_at=format_time(alert.created_at),
    )
