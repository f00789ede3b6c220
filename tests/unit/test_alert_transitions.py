"""The state machine of alerts: each evaluation with each alert that may be there, and long histories."""

import uuid
from collections.abc import Sequence
from datetime import timedelta
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.alerts.model import Alert, Transition
from server.core.alerts.transitions import Change, change_by
from server.core.rules.model import RuleState, Window
from tests.support.rules import NOW, WINDOW, evaluation, rule

RULE = rule(severity="critical")
LATER = NOW + timedelta(minutes=15)

OPEN = Alert(
    id=uuid.UUID(int=99),
    tenant_id=RULE.tenant_id,
    rule_id=RULE.id,
    rule_name="an older name",
    severity="info",
    message="the first message",
    value=11,
    window=WINDOW,
    event_ids=("first",),
    created_at=NOW,
    acknowledged_at=NOW,
)


def change(state: RuleState, alert: Alert | None) -> Change | None:
    """What an evaluation makes of an alert, with ids 1, 2, and so on."""
    ids = count(1)
    found = evaluation(state, 12, window=Window(60_000, 120_000), event_ids=("second",))
    return change_by(found, RULE, alert, LATER, lambda: uuid.UUID(int=next(ids)))


@pytest.mark.parametrize(
    ("state", "alert", "event"),
    [
        ("firing", None, "alert.opened"),
        ("firing", OPEN, None),
        ("inactive", OPEN, "alert.resolved"),
    ],
)
def test_what_changes_an_alert(state: RuleState, alert: Alert | None, event: str | None) -> None:
    changed = change(state, alert)
    assert changed is not None
    assert (changed.transition and changed.transition.event) == event


@pytest.mark.parametrize(
    ("state", "alert"),
    [("inactive", None), ("no_data", None), ("error", None), ("no_data", OPEN), ("error", OPEN)],
)
def test_what_changes_none(state: RuleState, alert: Alert | None) -> None:
    assert change(state, alert) is None


def test_an_alert_that_opens_is_of_its_rule() -> None:
    opened = Alert(
        id=uuid.UUID(int=1),
        tenant_id=RULE.tenant_id,
        rule_id=RULE.id,
        rule_name=RULE.name,
        severity="critical",
        message="firing 12",
        value=12,
        window=Window(60_000, 120_000),
        event_ids=("second",),
        created_at=LATER,
    )
    transition = Transition(id=uuid.UUID(int=2), event="alert.opened", at=LATER, alert=opened)
    assert change("firing", None) == Change(opened, transition)


def test_an_alert_that_goes_on_keeps_who_it_is() -> None:
    changed = change("firing", OPEN)
    assert changed is not None
    alert = changed.alert
    assert (alert.id, alert.created_at, alert.acknowledged_at) == (OPEN.id, NOW, NOW)
    assert (alert.rule_name, alert.severity) == ("an older name", "info")
    assert (alert.message, alert.value, alert.window.start_ms, alert.event_ids) == (
        "firing 12",
        12,
        60_000,
        ("second",),
    )


def test_an_alert_that_resolves_keeps_what_it_was_last() -> None:
    changed = change("inactive", OPEN)
    assert changed is not None
    assert changed.transition is not None
    assert changed.alert is changed.transition.alert
    assert (changed.alert.resolved_at, changed.alert.resolution) == (LATER, "condition")
    assert (changed.alert.message, changed.alert.value) == (OPEN.message, OPEN.value)


@given(st.lists(st.sampled_from(["inactive", "firing", "no_data", "error"])))
def test_openings_and_resolutions_take_turns(states: Sequence[RuleState]) -> None:
    alert, events = None, []
    for state in states:
        changed = change(state, alert)
        if changed is not None:
            alert = changed.alert if changed.alert.resolved_at is None else None
            if changed.transition is not None:
                events.append(changed.transition.event)
    assert events == ["alert.opened", "alert.resolved"] * (len(events) // 2) + ["alert.opened"] * (len(events) % 2)
    decided = [state for state in states if state in ("inactive", "firing")]
    assert (alert is not None) == (decided[-1:] == ["firing"])
