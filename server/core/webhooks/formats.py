"""Makes the body of a delivery in the format that its webhook wants."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from server.core.alerts.body import alert_body
from server.core.alerts.model import Alert
from server.core.webhooks.model import DeliveryEvent, Format

OPEN_FOR = timedelta(days=365)
"""When an Alertmanager takes an open alert for resolved if it hears nothing. Its default would be 5 minutes after each
message, and Sluice sends transitions only."""

TEST_FOR = timedelta(minutes=1)
"""The same of a test, which nothing resolves."""

SLACK_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
"""The three characters that Slack gives a meaning."""

SLACK_WORDS: Mapping[DeliveryEvent, str] = {
    "alert.opened": "Firing",
    "alert.resolved": "Resolved",
    "webhook.test": "Test",
}


def body_of(format_: Format, event: DeliveryEvent, at: datetime, alert: Alert) -> bytes:
    """The body of the message that `event` happened to an alert. It is JSON."""
    return msgspec.json.encode(FORMATS[format_](event, at, alert))


def standard(event: DeliveryEvent, at: datetime, alert: Alert) -> Any:
    """As Standard Webhooks recommends: what happened, when, and to what."""
    return {"type": event, "timestamp": zoned(at), "data": alert_body(alert)}


def slack(event: DeliveryEvent, _: datetime, alert: Alert) -> Any:
    """One text, which the incoming webhooks of Slack, Mattermost and others show."""
    text = f"{SLACK_WORDS[event]} ({alert.severity}): {alert.rule_name}\n{alert.message}"
    return {"text": text.translate(SLACK_ESCAPES)}


def alertmanager(event: DeliveryEvent, at: datetime, alert: Alert) -> Any:
    """What `POST /api/v2/alerts` of Alertmanager takes. Labels tell alerts apart, so they stay the same."""
    ends_at = alert.resolved_at or at + (TEST_FOR if event == "webhook.test" else OPEN_FOR)
    posted = {
        "labels": {
            "alertname": alert.rule_name,
            "severity": alert.severity,
            "rule_id": str(alert.rule_id),
            "job": "sluice",
        },
        "annotations": {"summary": alert.message},
        "startsAt": zoned(alert.created_at),
        "endsAt": zoned(ends_at),
    }
    return [posted]


def zoned(moment: datetime) -> str:
    """A time as RFC 3339 has it, to the millisecond."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


FORMATS: Mapping[Format, Callable[[DeliveryEvent, datetime, Alert], Any]] = {
    "standard": standard,
    "slack": slack,
    "alertmanager": alertmanager,
}
