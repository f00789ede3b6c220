"""`sluice rules test`: rules are evaluated offline, and what differs from the file is said."""

import json
from pathlib import Path

import pytest

from server.cli.main import main

pytestmark = pytest.mark.unit

RULES = """
rules:
  - name: few purchases
    rule_type: threshold
    config: {event_type: purchase, field: count, operator: "<", value: 10, window_minutes: 15}
    severity: critical
  - name: amounts
    rule_type: missing_field
    config: {event_type: purchase, required_fields: [amount]}
"""

TESTS = """
rule_files: [rules.yaml]
tests:
  - name: a quiet hour
    events:
      - {source: shop, type: purchase, data: {amount: 3}, received_at: 2026-03-01T12:00:00, repeat: 15, every: 1m}
      - {type: purchase, data: {}, timestamp: 2026-03-01T12:20}
    evaluations:
      - at: 2026-03-01T12:15
      - at: 2026-03-01T12:30:00
        alerts:
          - {rule: few purchases, severity: critical, value: 1}
          - rule: amounts
"""


def run(tmp_path: Path, tests: str, rules: str = RULES) -> int:
    (tmp_path / "rules.yaml").write_text(rules)
    (tmp_path / "tests.yaml").write_text(tests)
    with pytest.raises(SystemExit) as ended:
        main(["rules", "test", str(tmp_path / "tests.yaml")])
    return int(str(ended.value.code))


def test_all_is_as_expected(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, TESTS) == 0
    assert capfd.readouterr() == ("", "2 evaluations as expected\n")


def test_what_differs_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tests = TESTS.replace("at: 2026-03-01T12:15", "{at: 2026-03-01T12:15, alerts: [{rule: amounts}]}")
    tests = tests.replace("value: 1}", "value: 2}").replace("          - rule: amounts\n", "")
    assert run(tmp_path, tests) == 1
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert lines[0].endswith("tests.yaml: tests[0] (a quiet hour), at 2026-03-01T12:15:00")
    assert lines[1].startswith("  - amounts: expected to fire, but is inactive: 0 of 15 ")
    assert lines[2].endswith("at 2026-03-01T12:30:00")
    assert lines[3] == "  ~ few purchases: value: expected 2.0, found 1.0"
    assert lines[4].startswith("  + amounts: not expected to fire, but fires: 1 of 1 ")
    assert err == "2 of 2 evaluations differ from what is expected\n"


THROUGH_NO_DATA = """
rule_files: [rules.yaml]
tests:
  - events:
      - {type: purchase, data: {}, received_at: 2026-03-01T12:05}
      - {type: purchase, data: {amount: 1}, received_at: 2026-03-01T12:35, repeat: 10, every: 1s}
    evaluations:
      - {at: 2026-03-01T12:15, alerts: [{rule: few purchases, value: 1}, {rule: amounts, value: 100}]}
      - {at: 2026-03-01T12:30, alerts: [{rule: few purchases, value: 0}, {rule: amounts, value: 100}]}
      - {at: 2026-03-01T12:45}
"""


def test_an_alert_stays_open_without_data(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without purchases nobody knows if they would have amounts, so the alert stays as it was."""
    assert run(tmp_path, THROUGH_NO_DATA) == 0
    capfd.readouterr()
    assert run(tmp_path, THROUGH_NO_DATA.replace("value: 0}, {rule: amounts, value: 100}", "value: 0}")) == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines[1].startswith('  + amounts: not expected, but its alert is still open: There were no "purchase" ')


VOLUME_RULE = """
rules:
  - name: rise
    rule_type: volume
    config:
      {event_type: refund, threshold_percent: 50, current_window_minutes: 15, comparison_window_hours: 1}
"""

NEW_TYPE = """
rule_files: [rules.yaml]
tests:
  - events:
      - {type: refund, data: {}, received_at: 2026-03-01T12:00, repeat: 120, every: 1m}
      - {type: refund, data: {}, received_at: 2026-03-01T13:45, repeat: 10, every: 1s}
    evaluations:
      - {at: 2026-03-01T12:30}
      - {at: 2026-03-01T13:00}
      - {at: 2026-03-01T13:15}
      - {at: 2026-03-01T14:00, alerts: [{rule: rise, value: 66.66666666666667}]}
"""


def test_a_new_type_of_event_is_no_rise(tmp_path: Path) -> None:
    assert run(tmp_path, NEW_TYPE, VOLUME_RULE) == 0


def test_events_of_a_file(tmp_path: Path) -> None:
    exported = {"id": "1", "source": "shop", "event_type": "purchase", "data": {}, "received_at": "2026-03-01T12:20:00"}
    imported = {"type": "purchase", "data": {"amount": 1}, "timestamp": "2026-03-01T12:21:00Z"}
    (tmp_path / "events.ndjson").write_text(f"{json.dumps(exported)}\n\n{json.dumps(imported)}\n")
    tests = """
rule_files: [rules.yaml]
tests:
  - events: events.ndjson
    evaluations:
      - {at: 2026-03-01T12:30, alerts: [{rule: few purchases, value: 2}, {rule: amounts, value: 50}]}
"""
    assert run(tmp_path, tests) == 0


BAD_TESTS = {
    "rule_files: [rules.yaml]": "tests",
    TESTS.replace("rule_files: [rules.yaml]", "rule_files: [other.yaml]"): "other.yaml cannot be read",
    TESTS.replace("rule: few purchases", "rule: other"): "no rule has the name 'other'",
    TESTS.replace("rule: few purchases", "rule: amounts"): "'amounts' is there twice",
    TESTS.replace("12:30:00", "12:30:01"): "must be a whole minute",
    TESTS.replace("12:30:00", "12:15:00"): "after the one before",
    TESTS.replace("timestamp: 2026-03-01T12:20", "timestamp: noon"): "events[1]: Not one of the forms",
    TESTS.replace(", timestamp: 2026-03-01T12:20", ""): "events[1]: has neither `received_at` nor `timestamp`",
    TESTS.replace("{type: purchase, data: {}", "{data: {}"): "events[1]: has neither `type` nor `event_type`",
    TESTS.replace("every: 1m", "every: soon"): "every: must be a whole number with s, m, h or d",
    TESTS.replace("severity: critical", "severity: huge"): "severity",
    TESTS + "more: 1\n": "more",
    TESTS + "tests: []\n": 'duplicate key "tests"',
    "- 1": "has no object at its top",
    "a: [": "tests.yaml:",
}


@pytest.mark.parametrize("tests", BAD_TESTS, ids=[str(number) for number in range(len(BAD_TESTS))])
def test_a_file_that_is_wrong(tmp_path: Path, capfd: pytest.CaptureFixture[str], tests: str) -> None:
    assert run(tmp_path, tests) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert BAD_TESTS[tests] in line


BAD_RULES = {
    RULES.replace("rule_type: missing_field", "rule_type: other"): "rules[1] (amounts): rule_type",
    RULES.replace("required_fields: [amount]", "required_fields: []"): "rules[1] (amounts): config.required_fields",
    RULES.replace("name: amounts", "name: few purchases"): "two rules have the name 'few purchases'",
    RULES + "other: 1\n": "other is not known",
    "rules: 1": "rules must be a list",
}


@pytest.mark.parametrize("rules", BAD_RULES, ids=[str(number) for number in range(len(BAD_RULES))])
def test_rules_that_are_wrong(tmp_path: Path, capfd: pytest.CaptureFixture[str], rules: str) -> None:
    assert run(tmp_path, TESTS, rules) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert BAD_RULES[rules] in line


def test_a_line_that_is_no_event(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "events.ndjson").write_text('{"type": "purchase"}\n')
    tests = "rule_files: [rules.yaml]\ntests: [{events: events.ndjson, evaluations: [{at: 2026-03-01T12:30}]}]"
    assert run(tmp_path, tests) == 2
    assert "events.ndjson:1: Object missing required field `data`" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("timestamp: 2026-03-01T12:20", "timestamp: 1969-12-31T12:20", "events[1]: was received before 1970"),
        ("every: 1m", "every: 300000d", "events[0]: was received before 1970, or after 9999"),
        ("at: 2026-03-01T12:15", "at: 0001-01-01T00:01", "at: must be a whole minute"),
    ],
)
def test_times_that_no_event_has(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], old: str, new: str, error: str
) -> None:
    assert run(tmp_path, TESTS.replace(old, new)) == 2
    assert error in capfd.readouterr().err
