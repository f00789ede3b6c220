"""What rules find: the limit of each type, states, sentences, and what holds for any measurement."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.rules.conditions import evaluate
from server.core.rules.config import CONFIGS, COUNT, parse_config
from server.core.rules.measure import (
    FreshnessMeasurement,
    Measurement,
    MissingFieldMeasurement,
    Numbers,
    SchemaMeasurement,
    ThresholdMeasurement,
    VolumeMeasurement,
)
from server.core.rules.model import Evaluation, RuleState, RuleType
from server.core.rules.windows import HOUR_MS, MINUTE_MS, window_of
from tests.support.harness import Json
from tests.support.rules import CONFIG_EXAMPLES, rule

pytestmark = pytest.mark.unit

END_MS = 1_772_366_400_000
"""2026-03-01T12:00Z."""

IDS = ("a", "b")

BEGIN_MS = END_MS - 15 * MINUTE_MS - 24 * HOUR_MS
"""When the comparison window of the example begins."""


def found_by(rule_type: RuleType, change: Json, measurement: Measurement) -> Evaluation:
    """What a rule with the example's configuration, but for `change`, finds in the window that ends at END_MS."""
    config = parse_config(rule_type, {**CONFIG_EXAMPLES[rule_type], **change})
    made = rule(rule_type=rule_type, config=config, evaluated_until_ms=END_MS - 5 * MINUTE_MS)
    return evaluate(made, window_of(made, END_MS), measurement)


def threshold(events: int, numbers: Numbers | None = None) -> ThresholdMeasurement:
    return ThresholdMeasurement(events=events, numbers=numbers, event_ids=IDS)


def count_is(operator: str, value: float) -> Json:
    return {"field": COUNT, "aggregate": None, "operator": operator, "value": value}


def missing(events: int, incomplete: int) -> MissingFieldMeasurement:
    ids = IDS if incomplete else ()
    return MissingFieldMeasurement(events=events, incomplete=incomplete, missing={"amount": incomplete}, event_ids=ids)


def volume(events: int, before: int, first_seen_ms: int | None = None) -> VolumeMeasurement:
    return VolumeMeasurement(events=events, events_before=before, first_seen_ms=first_seen_ms, event_ids=IDS)


def fresh(age_ms: int | None) -> FreshnessMeasurement:
    if age_ms is None:
        return FreshnessMeasurement(events=0)
    is_in_window = age_ms <= 60 * MINUTE_MS
    return FreshnessMeasurement(events=int(is_in_window), newest_ms=END_MS - age_ms, event_ids=("a",))


def schema(events: int, violating: int) -> SchemaMeasurement:
    return SchemaMeasurement(events=events, violating=violating, event_ids=IDS if violating else ())


NUMBERS = Numbers(count=4, total=40.0, least=1.0, greatest=30.0)

CASES: list[tuple[RuleType, Json, Measurement, RuleState, Any]] = [
    ("threshold", count_is(">", 2), threshold(3), "firing", 3),
    ("threshold", count_is(">", 3), threshold(3), "inactive", 3),
    ("threshold", count_is(">=", 3), threshold(3), "firing", 3),
    ("threshold", count_is("<", 3), threshold(3), "inactive", 3),
    ("threshold", count_is("<=", 3), threshold(3), "firing", 3),
    ("threshold", count_is("==", 3), threshold(3), "firing", 3),
    ("threshold", count_is("==", 4), threshold(3), "inactive", 3),
    ("threshold", count_is("<", 1), threshold(0), "firing", 0),
    ("threshold", {}, threshold(3, NUMBERS), "inactive", 10),
    ("threshold", {"operator": "=="}, threshold(3, NUMBERS), "firing", 10),
    ("threshold", {"aggregate": "min", "operator": "<"}, threshold(3, NUMBERS), "firing", 1),
    ("threshold", {"aggregate": "max"}, threshold(3, NUMBERS), "firing", 30),
    ("threshold", {"aggregate": "sum"}, threshold(3, NUMBERS), "firing", 40),
    ("threshold", {"operator": "<"}, threshold(3), "no_data", None),
    ("missing_field", {}, missing(100, 1), "inactive", 1),
    ("missing_field", {}, missing(100, 2), "firing", 2),
    ("missing_field", {"max_percent": 0}, missing(3, 0), "inactive", 0),
    ("missing_field", {"max_percent": 0}, missing(1_000_000, 1), "firing", 0.0001),
    ("missing_field", {}, missing(0, 0), "no_data", None),
    ("volume", {}, volume(15, 24 * 60), "inactive", 0),
    ("volume", {}, volume(8, 24 * 60), "inactive", pytest.approx(-46.6667, abs=0.001)),
    ("volume", {}, volume(5, 960), "firing", -50),
    ("volume", {}, volume(0, 1), "firing", -100),
    ("volume", {"threshold_percent": -100}, volume(0, 960), "firing", -100),
    ("volume", {"threshold_percent": 50}, volume(14, 960), "inactive", 40),
    ("volume", {"threshold_percent": 50}, volume(15, 960), "firing", 50),
    ("volume", {"threshold_percent": 50}, volume(0, 960), "inactive", -100),
    ("volume", {"threshold_percent": 50}, volume(7, 0), "no_data", None),
    ("volume", {}, volume(0, 0), "no_data", None),
    ("volume", {"threshold_percent": 50}, volume(15, 960, BEGIN_MS + MINUTE_MS - 1), "firing", 50),
    ("volume", {"threshold_percent": 50}, volume(15, 960, BEGIN_MS + MINUTE_MS), "no_data", None),
    ("volume", {}, volume(0, 960, END_MS - 1), "no_data", None),
    ("freshness", {}, fresh(1), "inactive", 1 / MINUTE_MS),
    ("freshness", {}, fresh(60 * MINUTE_MS), "inactive", 60),
    ("freshness", {}, fresh(60 * MINUTE_MS + 6_000), "firing", 60.1),
    ("freshness", {}, fresh(None), "firing", None),
    ("schema", {}, schema(100, 0), "inactive", 0),
    ("schema", {}, schema(100, 1), "firing", 1),
    ("schema", {}, schema(0, 0), "no_data", None),
]


@pytest.mark.parametrize(("rule_type", "change", "measurement", "state", "value"), CASES)
def test_states_and_values(
    rule_type: RuleType, change: Json, measurement: Measurement, state: RuleState, value: Any
) -> None:
    found = found_by(rule_type, change, measurement)
    assert (found.state, found.value, found.sample_size) == (state, value, measurement.events)
    assert state == "firing" or not found.event_ids


SENTENCES: list[tuple[RuleType, Json, Measurement, str]] = [
    (
        "threshold",
        count_is(">", 2),
        threshold(3),
        'There were 3 "purchase" events from "backend" from 2026-03-01T11:45 to 2026-03-01T12:00 UTC; the limit is > 2',
    ),
    (
        "threshold",
        {"source": None},
        threshold(1, Numbers(3, 1.0, 0.0, 1.0)),
        'The avg of "amount" in 1 "purchase" event was 0.3333333333 from 2026-03-01T11:45 to 2026-03-01T12:00 UTC; '
        "the limit is > 10",
    ),
    (
        "threshold",
        {"source": None},
        threshold(2),
        'There was no number at "amount" in 2 "purchase" events from 2026-03-01T11:45 to 2026-03-01T12:00 UTC',
    ),
    (
        "missing_field",
        {},
        MissingFieldMeasurement(events=100, incomplete=4, missing={"user.id": 4, "amount": 1, "other": 0}),
        '4 of 100 "purchase" events (4 %) lacked a required field from 2026-03-01T11:45 to 2026-03-01T12:00 UTC; '
        'the limit is 1 %: "user.id" in 4, "amount" in 1',
    ),
    (
        "missing_field",
        {"window_minutes": None},
        missing(0, 0),
        'There were no "purchase" events from 2026-03-01T11:55 to 2026-03-01T12:00 UTC',
    ),
    (
        "volume",
        {},
        volume(2, 960),
        'There were 2 "purchase" events from 2026-03-01T11:45 to 2026-03-01T12:00 UTC, -80 % compared with the average '
        "of 10 in the 24 hours before; the limit is -50 %",
    ),
    ("volume", {}, volume(2, 0), 'There were no "purchase" events in the 24 hours before 2026-03-01T11:45 UTC'),
    (
        "freshness",
        {},
        fresh(75 * MINUTE_MS),
        'The newest of "purchase" events was 75 minutes old at 2026-03-01T12:00 UTC; the limit is 60 minutes',
    ),
    (
        "freshness",
        {},
        fresh(None),
        'There were no "purchase" events for 120 minutes before 2026-03-01T12:00 UTC; the limit is 60 minutes',
    ),
    (
        "schema",
        {},
        SchemaMeasurement(events=9, violating=3, mistyped={"amount": 2}, with_unlisted=2, unlisted=("b", "c.d")),
        '3 of 9 "purchase" events violated the schema from 2026-03-01T11:45 to 2026-03-01T12:00 UTC; the limit is 0: '
        '"amount" in 2; unlisted in 2, such as "b", "c.d"',
    ),
]


@pytest.mark.parametrize(("rule_type", "change", "measurement", "sentence"), SENTENCES)
def test_sentences(rule_type: RuleType, change: Json, measurement: Measurement, sentence: str) -> None:
    assert found_by(rule_type, change, measurement).message == sentence


def test_few_paths_are_named() -> None:
    measured = MissingFieldMeasurement(events=9, incomplete=9, missing={f"f{n}": n for n in range(1, 8)})
    assert found_by("missing_field", {}, measured).message.endswith(
        ': "f7" in 7, "f6" in 6, "f5" in 5, "f4" in 4, "f3" in 3 and 2 more'
    )


@pytest.mark.parametrize(
    ("rule_type", "change", "measurement", "ids"),
    [
        ("threshold", count_is(">", 2), threshold(3), IDS),
        ("threshold", count_is("<", 4), threshold(3), ()),  # what is missing has no id
        ("threshold", {"operator": "<="}, threshold(3, NUMBERS), IDS),
        ("missing_field", {}, missing(2, 2), IDS),
        ("volume", {"threshold_percent": 50}, volume(99, 960), IDS),
        ("volume", {}, volume(1, 960), ()),
        ("freshness", {}, fresh(61 * MINUTE_MS), ("a",)),
        ("schema", {}, schema(2, 2), IDS),
    ],
)
def test_events_for_which_a_rule_fires(
    rule_type: RuleType, change: Json, measurement: Measurement, ids: tuple[str, ...]
) -> None:
    found = found_by(rule_type, change, measurement)
    assert (found.state, found.event_ids) == ("firing", ids)


def test_a_measurement_of_another_kind_is_a_bug() -> None:
    with pytest.raises(TypeError):
        found_by("volume", {}, schema(1, 1))


COUNTS = st.integers(0, 10**9)
NUMBER = st.floats(allow_nan=False, width=64)
SOME_IDS = st.lists(st.uuids().map(str), max_size=5).map(tuple)


@st.composite
def measurements(draw: st.DrawFn, rule_type: RuleType) -> Measurement:
    """Any measurement of a type that can be."""
    events, ids = draw(COUNTS), draw(SOME_IDS)
    some = draw(st.integers(0, events))
    match rule_type:
        case "threshold":
            numbers = draw(st.none() | st.builds(Numbers, st.integers(1, 10**9), NUMBER, NUMBER, NUMBER))
            return ThresholdMeasurement(events=events, numbers=numbers, event_ids=ids)
        case "missing_field":
            return MissingFieldMeasurement(events=events, incomplete=some, missing={"amount": some}, event_ids=ids)
        case "volume":
            return VolumeMeasurement(events=events, events_before=draw(COUNTS), event_ids=ids)
        case "freshness":
            age_ms = draw(st.none() | st.integers(1, 120 * MINUTE_MS))
            return FreshnessMeasurement(
                events=events, newest_ms=None if age_ms is None else END_MS - age_ms, event_ids=ids
            )
        case "schema":
            return SchemaMeasurement(events=events, violating=some, mistyped={"amount": some}, event_ids=ids)


@given(st.data())
def test_any_measurement_is_evaluated(data: st.DataObject) -> None:
    rule_type = data.draw(st.sampled_from(list(CONFIGS)))
    measurement = data.draw(measurements(rule_type))
    found = found_by(rule_type, {}, measurement)
    assert found == found_by(rule_type, {}, measurement)
    assert found.state in {"inactive", "firing", "no_data"}
    assert (found.value is None) <= (found.state == "no_data" or rule_type == "freshness")
    assert found.event_ids in {(), measurement.event_ids}
    assert found.state == "firing" or not found.event_ids
    assert found.message.isprintable()
    assert found.message[-1] not in ";:,"


@given(events=COUNTS, before=st.integers(1, 10**9), percent=st.integers(-100, 1_000).filter(bool))
def test_volume_fires_at_exactly_its_limit(events: int, before: int, percent: int) -> None:
    """Compared without rounding: events / expected against 1 + percent / 100, as whole numbers."""
    found = found_by("volume", {"threshold_percent": percent}, volume(events, before))
    left, right = 100 * events * 24 * 60, (100 + percent) * before * 15
    assert (found.state == "firing") == (left <= right if percent < 0 else left >= right)
