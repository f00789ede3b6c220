"""Alerts and transitions for the tests of webhooks."""

from datetime import UTC, datetime
from uuid import UUID, uuid4

from server.core.alerts.model import Alert, AlertEvent, Transition
from server.core.rules.model import Window
from server.core.webhooks.model import Format, Secrets, Webhook

AT = datetime(2026, 11, 27, 12, 0, 0, 123_000, tzinfo=UTC)

MESSAGE = "count of purchase was 3, below 10, from 11:45 to 12:00 <UTC> & counting"


def alert(tenant_id: UUID | None = None, rule_id: UUID | None = None, resolved_at: datetime | None = None) -> Alert:
    """An alert that is open, unless `resolved_at` is given."""
    return Alert(
        id=uuid4(),
        tenant_id=tenant_id or uuid4(),
        rule_id=rule_id or uuid4(),
        rule_name="few purchases",
        severity="critical",
        message=MESSAGE,
        value=3.0,
        window=Window(1_795_779_900_000, 1_795_780_800_000),
        event_ids=("0193f3b1-0000-7000-8000-000000000000",),
        created_at=AT,
        resolved_at=resolved_at,
    )


def transition(of: Alert, event: AlertEvent = "alert.opened", at: datetime = AT) -> Transition:
    """A transition of an alert."""
    return Transition(id=uuid4(), event=event, at=at, alert=of)


def webhook(tenant_id: UUID | None = None, url: str = "https://example.com/", format_: Format = "standard") -> Webhook:
    """A webhook that wants all events."""
    return Webhook(
        id=uuid4(),
        tenant_id=tenant_id or uuid4(),
        name="on call",
        url=url,
        events=("alert.opened", "alert.resolved"),
        format=format_,
        secrets=Secrets(b"s" * 32),
        created_at=AT,
    )
