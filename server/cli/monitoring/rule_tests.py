"""Tests rules offline: evaluates them on events in a file, and compares which fire with what the file expects.

A file has rules, or names files with them, and tests. Each test has events and evaluations:

    rule_files: [rules.yaml]
    tests:
      - name: too few purchases
        events:
          - {source: shop, type: purchase, data: {amount: 3}, received_at: 2026-03-01T12:00, repeat: 10, every: 1m}
        evaluations:
          - at: 2026-03-01T12:15
            alerts: [{rule: few purchases, severity: critical, value: 10}]
          - {at: 2026-03-01T12:30, alerts: []}

Instead of a list, `events` may be the name of a file with an event a line, as `sluice export` writes them and `sluice
import` takes them. `received_at` decides about windows; without it, `timestamp` does. `at` is a whole minute at which
windows end. `alerts` are those that are open then, of the rules that they name; their other fields may be left out. An
alert opens when its rule fires, and stays open, as it is, while there is no data.

Rules are measured and evaluated, and alerts open and resolve, by the code that a server uses (`core/rules/offline.py`
and `conditions.py`, `core/alerts/transitions.py`).
"""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import msgspec
from msgspec import Meta, Struct

from server.cli.monitoring.yaml_files import Fields, check_names, read_rules, read_yaml, rules_of
from server.cli.options import DURATION, DURATION_FORM, DURATION_UNITS
from server.core.alerts.model import Alert
from server.core.alerts.transitions import change_by
from server.core.deadline import Deadline
from server.core.errors import ConfigurationError
from server.core.events.ids import new_ids
from server.core.rules.conditions import evaluate
from server.core.rules.model import Evaluation, Rule, Severity
from server.core.rules.offline import OfflineEvent, OfflineEvents
from server.core.rules.windows import MINUTE_MS, minute_of, window_of
from server.core.times import EPOCH, MAX_MS, MILLISECOND, format_time, from_milliseconds, parse_time

DEFAULT_SOURCE = "test"

USUAL_INTERVAL_MS = 15 * MINUTE_MS
"""How long before a test's first evaluation the one before was, for rules whose window begins there."""

EARLIEST_MS = 365 * 24 * 60 * MINUTE_MS
"""The end of 1970. A window that ends later, however long it is, has a beginning that can be written."""

MAX_REPEATS = 1_000_000

TENANT = UUID(int=0)

Moment = Any
"""A time: a text, or a date or date-time, which YAML makes of one that has seconds."""


class TestEvent(Struct, forbid_unknown_fields=False):
    """An event, as it is exported or imported, or as it stands in the file of tests."""

    __test__ = False

    data: dict[str, Any]
    type: str | None = None
    event_type: str | None = None
    source: str = DEFAULT_SOURCE
    received_at: Moment | None = None
    timestamp: Moment | None = None
    repeat: Annotated[int, Meta(ge=1, le=MAX_REPEATS)] = 1
    every: str = "1m"
    """How long after one the next of those that are repeated is."""


class ExpectedAlert(Struct, forbid_unknown_fields=True):
    """A rule whose alert should be open. What is None may be anything."""

    rule: str
    severity: Severity | None = None
    value: float | None = None
    message: str | None = None


class TestEvaluation(Struct, forbid_unknown_fields=True):
    """A time, and which alerts should be open then."""

    __test__ = False

    at: Moment
    alerts: list[ExpectedAlert] = []


class RuleTest(Struct, forbid_unknown_fields=True):
    """Events, and what should be found of them."""

    events: str | list[TestEvent]
    evaluations: Annotated[list[TestEvaluation], Meta(min_length=1)]
    name: str = ""


class TestFile(Struct, forbid_unknown_fields=True):
    """A file of tests."""

    __test__ = False

    tests: Annotated[list[RuleTest], Meta(min_length=1)]
    rules: list[Any] = []
    rule_files: list[str] = []


class Difference(Struct):
    """What an evaluation found that the file does not expect, or the other way round."""

    place: str
    lines: list[str]


class Report(Struct):
    """What became of the tests of a file."""

    evaluations: int
    differences: list[Difference]


def run_tests(path: Path) -> Report:
    """Run the tests of a file. Raises ConfigurationError."""
    document = convert(read_yaml(path), TestFile, str(path))
    rules = [fields for name in document.rule_files for fields in read_rules(path.parent / name)]
    rules += rules_of(document.rules, path)
    check_names(rules, path)
    report = Report(0, [])
    for index, test in enumerate(document.tests):
        place = f"{path}: tests[{index}]" + (f" ({test.name})" if test.name else "")
        check_expected(test, rules, place)
        events = OfflineEvents(list(events_of(test, path, place)))
        run_test(test, rules, events, place, report)
    return report


def run_test(test: RuleTest, rules: Sequence[Fields], events: OfflineEvents, place: str, report: Report) -> None:
    """Evaluate the rules at each time of a test, in order, and add what differs to the report."""
    before_ms, alerts = None, dict[str, Alert]()
    for evaluation in test.evaluations:
        end_ms = time_of(evaluation.at, f"{place}: at")
        if end_ms != minute_of(end_ms) or end_ms <= (EARLIEST_MS if before_ms is None else before_ms):
            raise ConfigurationError(f"{place}: at: must be a whole minute, after the one before, and after 1970")
        made = [rule_of(fields, before_ms or end_ms - USUAL_INTERVAL_MS) for fields in rules if fields["enabled"]]
        measured = asyncio.run(events.measure(TENANT, made, end_ms, Deadline()))
        found = {rule.name: (rule, evaluate(rule, window_of(rule, end_ms), measured[rule.id])) for rule in made}
        for rule, found_by_rule in found.values():
            change_alert(alerts, rule, found_by_rule, end_ms)
        report.evaluations += 1
        if lines := list(differences_of(evaluation.alerts, found, alerts)):
            at = format_time(from_milliseconds(end_ms))
            report.differences.append(Difference(f"{place}, at {at}", lines))
        before_ms = end_ms


def change_alert(alerts: dict[str, Alert], rule: Rule, evaluation: Evaluation, end_ms: int) -> None:
    """Open, update or resolve the alert of a rule. `alerts` are those that are open, by the names of rules."""
    change = change_by(evaluation, rule, alerts.get(rule.name), from_milliseconds(end_ms), uuid4)
    if change is not None and change.alert.resolved_at is None:
        alerts[rule.name] = change.alert
    elif change is not None:
        del alerts[rule.name]


def rule_of(fields: Fields, evaluated_until_ms: int) -> Rule:
    """A rule that was evaluated until then."""
    own_id = UUID(bytes=new_ids(evaluated_until_ms, 1).binary[0])
    return Rule(
        id=own_id, tenant_id=TENANT, created_at=EPOCH, updated_at=EPOCH, evaluated_until_ms=evaluated_until_ms, **fields
    )


def differences_of(
    expected: Sequence[ExpectedAlert], found: dict[str, tuple[Rule, Evaluation]], alerts: dict[str, Alert]
) -> Iterator[str]:
    """A line for each thing that differs. `alerts` are those that are open, by the names of rules."""
    for alert in expected:
        if alert.rule not in found:
            yield f"- {alert.rule}: expected to fire, but is disabled"
            continue
        if alert.rule not in alerts:
            _, evaluation = found[alert.rule]
            yield f"- {alert.rule}: expected to fire, but is {evaluation.state}: {evaluation.message}"
            continue
        for field in ("severity", "value", "message"):
            wanted, actual = getattr(alert, field), getattr(alerts[alert.rule], field)
            if wanted is not None and wanted != actual:
                yield f"~ {alert.rule}: {field}: expected {wanted}, found {actual}"
    names = {alert.rule for alert in expected}
    for name in [name for name in alerts if name not in names]:
        _, evaluation = found[name]
        is_firing = evaluation.state == "firing"
        what = "not expected to fire, but fires" if is_firing else "not expected, but its alert is still open"
        yield f"+ {name}: {what}: {evaluation.message}"


def check_expected(test: RuleTest, rules: Sequence[Fields], place: str) -> None:
    """Raises ConfigurationError if an alert names no rule, or two name one."""
    names = {fields["name"] for fields in rules}
    for evaluation in test.evaluations:
        alerts = [alert.rule for alert in evaluation.alerts]
        for index, name in enumerate(alerts):
            if name not in names:
                raise ConfigurationError(f"{place}: alerts: no rule has the name {name!r}")
            if name in alerts[:index]:
                raise ConfigurationError(f"{place}: alerts: {name!r} is there twice")


def events_of(test: RuleTest, path: Path, place: str) -> Iterator[OfflineEvent]:
    """The events of a test. Raises ConfigurationError."""
    if isinstance(test.events, str):
        yield from events_in_file(path.parent / test.events)
        return
    for index, event in enumerate(test.events):
        yield from offline_events(event, f"{place}: events[{index}]")


def events_in_file(path: Path) -> Iterator[OfflineEvent]:
    """The events of a file with one a line. Raises ConfigurationError."""
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    place = f"{path}:{number}"
                    yield from offline_events(decode_line(line, place), place)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None


def decode_line(line: bytes, place: str) -> TestEvent:
    """The event in a line. Raises ConfigurationError."""
    try:
        return msgspec.json.decode(line, type=TestEvent)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{place}: {error}") from None


def offline_events(event: TestEvent, place: str) -> Iterator[OfflineEvent]:
    """The events that one in a file stands for. Raises ConfigurationError."""
    event_type = event.event_type or event.type
    if event_type is None:
        raise ConfigurationError(f"{place}: has neither `type` nor `event_type`")
    moment = event.received_at if event.received_at is not None else event.timestamp
    if moment is None:
        raise ConfigurationError(f"{place}: has neither `received_at` nor `timestamp`")
    first_ms, every_ms = time_of(moment, place), duration_of(event.every, f"{place}: every") // MILLISECOND
    if not 0 <= first_ms <= first_ms + (event.repeat - 1) * every_ms <= MAX_MS:
        raise ConfigurationError(f"{place}: was received before 1970, or after 9999")
    for number in range(event.repeat):
        received_at_ms = first_ms + number * every_ms
        event_id = new_ids(received_at_ms, 1).text[0]
        yield OfflineEvent(event_id, received_at_ms, event.source, event_type, event.data)


def time_of(moment: Moment, place: str) -> int:
    """A time in milliseconds since 1970. Raises ConfigurationError."""
    try:
        return parse_time(moment.isoformat() if isinstance(moment, date) else str(moment))
    except ValueError as error:
        raise ConfigurationError(f"{place}: {error}") from None


def duration_of(text: str, place: str) -> timedelta:
    """A duration. Raises ConfigurationError."""
    match = DURATION.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"{place}: must be {DURATION_FORM}")
    return int(match["number"]) * DURATION_UNITS[match["unit"]]


def convert(value: Any, kind: type[TestFile], place: str) -> TestFile:
    """What a file says, as a struct. Raises ConfigurationError."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{place}: {error}") from None
