"""The fields of rules: new ones, and changes."""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.errors import InvalidParameter
from server.core.rules.config import CONFIGS
from server.core.rules.fields import changed_rule, fields_of, new_rule, parse_fields
from server.core.rules.model import Rule, RuleType
from server.core.times import MILLISECOND, to_milliseconds
from tests.support.harness import Json
from tests.support.rules import CONFIG_EXAMPLES, NOW

pytestmark = pytest.mark.unit

LATER = NOW + timedelta(hours=1)


def made(of_type: RuleType = "threshold", **fields: Any) -> Rule:
    """A rule of a type, with the configuration of the example, but for `fields`."""
    value = {"name": "a", "rule_type": of_type, "config": CONFIG_EXAMPLES[of_type], **fields}
    return new_rule(uuid.uuid4(), uuid.uuid4(), value, NOW)


def test_defaults() -> None:
    rule = made()
    assert (rule.severity, rule.enabled, rule.tags, rule.category, rule.state) == (
        "warning",
        True,
        (),
        None,
        "inactive",
    )
    assert rule.created_at == rule.updated_at == NOW
    assert rule.evaluated_until_ms == to_milliseconds(NOW)


WRONG: list[tuple[Json, str]] = [
    ({"name": ""}, "name: "),
    ({"name": "a" * 256}, "name: "),
    ({"name": " "}, "name: must be visible"),
    ({"name": "a\nb"}, "name: must be visible"),
    ({"name": 1}, "name: Expected `string`"),
    ({"rule_type": "anomaly"}, "rule_type: must be one of threshold, missing_field, volume, freshness, schema"),
    ({"config": []}, "config: "),
    ({"severity": "high"}, "severity: must be one of critical, warning, info"),
    ({"enabled": 1}, "enabled: "),
    ({"tags": "a"}, "tags: "),
    ({"tags": ["a", ""]}, "tags[1]: "),
    ({"tags": ["a", "\t"]}, "tags[1]: must be visible"),
    ({"tags": ["a"] * 21}, "tags: "),
    ({"category": 1}, "category: "),
    ({"category": "a\nb"}, "category: must be visible"),
    (
        {"config": {**CONFIG_EXAMPLES["threshold"], "window_minutes": 1.5}},
        "config.window_minutes: Expected `integer`, got",
    ),
    ({"id": "a"}, "id: Object contains unknown field"),
    ({"config": {**CONFIG_EXAMPLES["threshold"], "severity": "high"}}, "config.severity: must be one of critical"),
]


@pytest.mark.parametrize(("change", "detail"), WRONG)
def test_a_wrong_field_is_named(change: Json, detail: str) -> None:
    with pytest.raises(InvalidParameter) as new:
        made(**change)
    with pytest.raises(InvalidParameter) as changed:
        changed_rule(made(), change, LATER)
    assert new.value.detail.startswith(detail)
    assert changed.value.detail.startswith(detail)


@pytest.mark.parametrize("field", ["name", "rule_type", "config"])
def test_a_missing_field_is_named(field: str) -> None:
    value = {"name": "a", "rule_type": "volume", "config": CONFIG_EXAMPLES["volume"]}
    del value[field]
    with pytest.raises(InvalidParameter, match=f"^{field}: Object missing required field$"):
        parse_fields(value)


def test_the_severity_may_be_in_the_configuration() -> None:
    """As the public documentation has it."""
    config = {**CONFIG_EXAMPLES["threshold"], "severity": "critical"}
    assert made(config=config).severity == made(config=config, severity="critical").severity == "critical"
    with pytest.raises(InvalidParameter, match=r"^severity: is another than config\.severity"):
        made(config=config, severity="info")
    assert changed_rule(made(), {"config": config}, LATER).severity == "critical"
    assert changed_rule(made(severity="info"), {"config": CONFIG_EXAMPLES["threshold"]}, LATER).severity == "info"


@pytest.mark.parametrize("rule_type", list(CONFIGS))
def test_a_rule_reads_back(rule_type: RuleType) -> None:
    rule = made(rule_type, tags=["b", "a", "b"], category="sales")
    assert rule.tags == ("b", "a")
    assert parse_fields(fields_of(rule)) == {field: getattr(rule, field) for field in fields_of(rule)}


@pytest.mark.parametrize("rule_type", list(CONFIGS))
def test_a_change_keeps_the_rest(rule_type: RuleType) -> None:
    rule = made(rule_type, tags=["a"], category="sales", severity="info")
    changed = changed_rule(rule, {"name": "b", "category": None}, LATER)
    assert (changed.name, changed.category, changed.updated_at) == ("b", None, LATER)
    assert (changed.config, changed.tags, changed.severity) == (rule.config, ("a",), "info")
    assert (changed.id, changed.created_at, changed.evaluated_until_ms) == (rule.id, NOW, rule.evaluated_until_ms)


def test_every_change_has_a_later_time() -> None:
    """Also if the clock was set back: an evaluation compares the times."""
    rule = made()
    assert changed_rule(rule, {}, NOW).updated_at == NOW + MILLISECOND
    assert changed_rule(rule, {}, NOW - timedelta(hours=1)).updated_at == NOW + MILLISECOND


def test_another_type_needs_its_configuration() -> None:
    with pytest.raises(InvalidParameter, match=r"^config: is needed with another rule_type$"):
        changed_rule(made(), {"rule_type": "volume"}, LATER)
    changed = changed_rule(made(), {"rule_type": "volume", "config": CONFIG_EXAMPLES["volume"]}, LATER)
    assert isinstance(changed.config, CONFIGS["volume"])


def test_disabled_and_enabled_again() -> None:
    """The time between is not evaluated."""
    disabled = changed_rule(made(), {"enabled": False}, LATER)
    assert (disabled.state, disabled.evaluated_until_ms) == ("inactive", to_milliseconds(NOW))
    still = changed_rule(disabled, {"name": "b"}, LATER)
    assert still.evaluated_until_ms == to_milliseconds(NOW)
    assert changed_rule(still, {"enabled": True}, LATER).evaluated_until_ms == to_milliseconds(LATER)


@pytest.mark.parametrize("value", [None, [], "a", 1])
def test_a_change_is_an_object(value: Any) -> None:
    with pytest.raises(InvalidParameter, match=r"^body: "):
        changed_rule(made(), value, LATER)


@given(
    st.dictionaries(st.text(max_size=5) | st.sampled_from(list(fields_of(made()))), st.none() | st.text() | st.floats())
)
def test_any_change_is_made_or_named(value: Json) -> None:
    try:
        changed_rule(made(), value, datetime(2027, 1, 1, tzinfo=UTC))
    except InvalidParameter as error:
        named = error.detail.split(":")[0]
    else:
        return
    assert named or "" in value
