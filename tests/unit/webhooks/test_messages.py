"""Deliveries of a transition: to whom, with which id and body."""

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from server.core.times import to_milliseconds
from server.core.webhooks.formats import body_of
from server.core.webhooks.messages import deliveries_of, message_id
from server.core.webhooks.model import Format
from tests.support.alerts import AT, MESSAGE, alert, transition, webhook

pytestmark = pytest.mark.unit


def body(format_: Format, event: Any = "alert.opened", **fields: Any) -> Any:
    return json.loads(body_of(format_, event, AT, alert(**fields)))


def test_those_webhooks_get_one_that_want_the_event_and_are_enabled() -> None:
    wants, other, disabled = webhook(), webhook(), webhook()
    other = replace(other, events=("alert.resolved",))
    disabled = replace(disabled, disabled_at=AT)
    opened = transition(alert())
    [delivery] = deliveries_of([wants, other, disabled], opened)
    assert delivery.webhook_id == wants.id
    assert delivery.subject == opened.alert.rule_id
    assert (delivery.created_at, delivery.due_at, delivery.state) == (AT, AT, "pending")


def test_the_same_transition_gives_the_same_delivery_and_another_one_another_id() -> None:
    hooks = [webhook(), webhook()]
    opened = transition(alert())
    first = deliveries_of(hooks, opened)
    assert first == deliveries_of(hooks, opened)
    ids = {each.id for each in [*first, *deliveries_of(hooks, transition(opened.alert))]}
    assert len(ids) == 4


@given(st.uuids(), st.uuids(), st.datetimes(min_value=AT.replace(tzinfo=None)))
def test_an_id_is_a_uuid_of_version_7_with_its_time(subject: Any, webhook_id: Any, moment: Any) -> None:
    at = moment.replace(tzinfo=AT.tzinfo)
    made = message_id(at, subject, webhook_id)
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert made.int >> 80 == to_milliseconds(at)


def test_standard_has_the_alert_as_the_api_shows_it() -> None:
    message = body("standard")
    assert message["type"] == "alert.opened"
    assert message["timestamp"] == "2026-11-27T12:00:00.123Z"
    assert message["data"]["message"] == MESSAGE
    assert message["data"]["value"] == 3.0
    assert message["data"]["is_resolved"] is False
    assert message["data"]["created_at"] == "2026-11-27T12:00:00.123"


@pytest.mark.parametrize(
    ("event", "word"), [("alert.opened", "Firing"), ("alert.resolved", "Resolved"), ("webhook.test", "Test")]
)
def test_slack_has_one_text_in_which_nothing_is_a_link(event: str, word: str) -> None:
    message = body("slack", event)
    assert list(message) == ["text"]
    assert message["text"].startswith(f"{word} (critical): few purchases\n")
    assert "&lt;UTC&gt; &amp; counting" in message["text"]


def test_alertmanager_has_labels_that_stay_and_an_end() -> None:
    rule_id = alert().rule_id
    [opened] = body("alertmanager", rule_id=rule_id)
    [resolved] = body("alertmanager", "alert.resolved", rule_id=rule_id, resolved_at=AT + timedelta(hours=1))
    assert opened["labels"] == resolved["labels"]
    assert opened["labels"]["alertname"] == "few purchases"
    assert opened["startsAt"] == resolved["startsAt"] == "2026-11-27T12:00:00.123Z"
    assert opened["endsAt"] == "2027-11-27T12:00:00.123Z"  # it does not resolve by itself
    assert resolved["endsAt"] == "2026-11-27T13:00:00.123Z"
