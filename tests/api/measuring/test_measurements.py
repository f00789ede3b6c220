"""The database and memory measure the same of the same events, for random events and rules."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.core.deadline import Deadline
from server.core.rules.measure import Measurement, ThresholdMeasurement
from server.core.rules.model import Rule
from server.core.rules.offline import OfflineEvents
from tests.api.measuring.conftest import Measurer
from tests.support.harness import MongoClient
from tests.support.measuring import END_MS, EVENTS, RULES, new_tenant, rule_of, store

FEW_EXAMPLES = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def offline(events: Sequence[Any], rules: Sequence[Rule]) -> Mapping[UUID, Measurement]:
    return asyncio.run(OfflineEvents(events).measure(UUID(int=0), rules, END_MS, Deadline()))


def without_total(measurement: Measurement) -> tuple[float, dict[str, Any]]:
    """A sum of doubles, which may differ in its last digit, and all else."""
    fields = msgspec.to_builtins(measurement)
    total = fields["numbers"].pop("total") if fields.get("numbers") else 0.0
    return total, fields


def assert_same(measured: Mapping[UUID, Measurement], expected: Mapping[UUID, Measurement]) -> None:
    assert list(measured) == list(expected)
    for rule_id, one in measured.items():
        (total, fields), (other_total, other_fields) = without_total(one), without_total(expected[rule_id])
        assert fields == other_fields
        assert math.isclose(total, other_total, rel_tol=1e-12, abs_tol=1e-9)


@FEW_EXAMPLES
@given(EVENTS, st.lists(RULES, min_size=1, max_size=8))
def test_random_events(
    measurer: Measurer, mongo: MongoClient, drawn: list[tuple[int, str, str, dict[str, Any]]], rules: list[Rule]
) -> None:
    tenant = new_tenant(mongo)
    store(mongo, new_tenant(mongo), drawn)  # of another tenant
    events = store(mongo, tenant, drawn)
    measured = measurer.measure(tenant, rules)
    assert_same(measured, offline(events, rules))
    assert measurer.measure(tenant, rules) == measured


@pytest.mark.parametrize("name", ["plain", "$dollar"])
def test_the_longest_path(measurer: Measurer, mongo: MongoClient, name: str) -> None:
    tenant, path = new_tenant(mongo), ".".join([name] * 10)
    data: Any = 5
    for _ in range(10):
        data = {name: [data]}
    config = {"event_type": "view", "field": path, "aggregate": "max", "operator": ">", "value": 1, "window_minutes": 1}
    rules = [
        rule_of("threshold", config),
        rule_of("missing_field", {"event_type": "view", "required_fields": [path], "window_minutes": 1}),
        rule_of(
            "schema",
            {"event_type": "view", "fields": {path: "array"}, "allow_unknown": False, "window_minutes": 1},
        ),
    ]
    events = store(mongo, tenant, [(5, "web", "view", data), (4, "web", "view", {name: {}})])
    measured = measurer.measure(tenant, rules)
    assert_same(measured, offline(events, rules))
    found = measured[rules[0].id]
    assert isinstance(found, ThresholdMeasurement)
    assert found.numbers is not None
    assert found.numbers.greatest == 5


def test_many_rules_with_many_paths(measurer: Measurer, mongo: MongoClient) -> None:
    tenant = new_tenant(mongo)
    paths = [".".join(f"name{number}" for _ in range(10)) for number in range(100)]
    config = {"event_type": "view", "required_fields": paths, "window_minutes": 1}
    rules = [rule_of("missing_field", config) for _ in range(10)]
    events = store(mongo, tenant, [(5, "web", "view", {"name3": 1})])
    assert_same(measurer.measure(tenant, rules), offline(events, rules))


def test_many_objects_in_one_event(measurer: Measurer, mongo: MongoClient) -> None:
    tenant = new_tenant(mongo)
    data = {"items": [{"p": number} for number in range(40_000)] + [{"p": "no number"}]}
    config = {"event_type": "view", "field": "items.p", "aggregate": "max", "operator": ">", "window_minutes": 1}
    rules = [rule_of("threshold", {**config, "value": value}) for value in range(40)]
    events = store(mongo, tenant, [(5, "web", "view", data)])
    assert_same(measurer.measure(tenant, rules, timeout_s=15), offline(events, rules))
