"""The state machine of alerts: what an evaluation makes of the open alert of its rule.

| evaluation | no open alert | an open alert |
|---|---|---|
| firing | one is opened | it gets the new message, value, window and events |
| inactive | nothing | it is resolved |
| no_data, error | nothing | it stays as it is |

Without data nobody knows if the condition still holds, so an alert neither opens nor resolves. An alert that was
resolved by hand is no longer open. If the rule still fires, its next evaluation opens another.
"""

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from msgspec.structs import replace

from server.core.alerts.model import Alert, Resolution, Transition
from server.core.rules.model import Evaluation, Rule

NewId = Callable[[], UUID]


class Change(NamedTuple):
    """What becomes of an alert."""

    alert: Alert
    """As it is to be stored."""
    transition: Transition | None = None
    """What webhooks are told; None if there is nothing to tell."""


def change_by(
    evaluation: Evaluation, rule: Rule, open_alert: Alert | None, at: datetime, new_id: NewId
) -> Change | None:
    """What an evaluation of a rule makes of its open alert. `at` is now; `new_id` makes ids that ascend."""
    if evaluation.state == "firing":
        return update_of(open_alert, evaluation) if open_alert else opening_of(rule, evaluation, at, new_id)
    if evaluation.state == "inactive" and open_alert:
        return resolution_of(open_alert, "condition", at, new_id)
    return None


def opening_of(rule: Rule, evaluation: Evaluation, at: datetime, new_id: NewId) -> Change:
    """The new alert of a rule that fires."""
    alert = Alert(
        id=new_id(),
        tenant_id=rule.tenant_id,
        rule_id=rule.id,
        rule_name=rule.name,
        severity=rule.severity,
        message=evaluation.message,
        value=evaluation.value,
        window=evaluation.window,
        event_ids=evaluation.event_ids,
        created_at=at,
    )
    return Change(alert, Transition(id=new_id(), event="alert.opened", at=at, alert=alert))


def update_of(alert: Alert, evaluation: Evaluation) -> Change:
    """An open alert whose rule still fires."""
    updated = replace(
        alert,
        message=evaluation.message,
        value=evaluation.value,
        window=evaluation.window,
        event_ids=evaluation.event_ids,
    )
    return Change(updated)


def resolution_of(alert: Alert, resolution: Resolution, at: datetime, new_id: NewId) -> Change:
    """The end of an open alert."""
    resolved = replace(alert, resolution=resolution, resolved_at=at)
    return Change(resolved, Transition(id=new_id(), event="alert.resolved", at=at, alert=resolved))
