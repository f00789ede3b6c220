"""`POST /api/v1/rules/{id}/evaluate`: each type finds what it is for, in a complete window, and changes nothing."""

import time
import uuid
from typing import Any

import httpx
import pytest

from server.core.rules.model import RuleType
from server.core.rules.windows import COMPLETE_AFTER_MS, HOUR_MS, MINUTE_MS, last_complete_minute
from server.core.times import from_milliseconds
from tests.support.harness import Json, MongoClient, batch
from tests.support.rules import CONFIG_EXAMPLES, RULES, create_rule, store_events
from tests.support.wire import EVENTS

SPARE_MS = 20_000
"""A test has this long until the window moves on."""


def window_end() -> int:
    """The end of the last complete minute, which stays that for SPARE_MS."""
    now_ms = time.time_ns() // 1_000_000
    left_ms = MINUTE_MS - (now_ms - COMPLETE_AFTER_MS) % MINUTE_MS
    if left_ms < SPARE_MS:
        time.sleep(left_ms / 1_000)
    return last_complete_minute(time.time_ns() // 1_000_000)


def evaluate(client: httpx.Client, rule: Json) -> Json:
    """What a rule finds now."""
    response = client.post(f"{RULES}/{rule['id']}/evaluate")
    assert response.status_code == 200, response.text
    found: Json = response.json()
    return found


FIVE = [{"amount": 20, "user": {"id": "a"}} for _ in range(5)]
NO_USER: list[Json] = [*FIVE[:4], {"amount": 20, "user": {}}]
TEXT: list[Json] = [*FIVE[:4], {"amount": "20", "user": {"id": None}}]

CASES: list[tuple[RuleType, Json, list[Json], float, list[int]]] = [
    ("threshold", {}, FIVE, 20, [0, 1, 2, 3, 4]),
    ("threshold", {"field": "count", "aggregate": None, "operator": ">=", "value": 5}, FIVE, 5, [0, 1, 2, 3, 4]),
    ("threshold", {"field": "count", "aggregate": None, "operator": "<"}, FIVE, 5, []),
    ("missing_field", {}, NO_USER, 20, [4]),
    ("missing_field", {"window_minutes": None}, NO_USER, 20, [4]),
    ("schema", {}, TEXT, 1, [4]),
    ("schema", {}, [{"amount": 1, "other": 1}], 1, [0]),
]


@pytest.mark.parametrize(("rule_type", "change", "data", "value", "offenders"), CASES)
def test_a_rule_that_would_fire(
    client: httpx.Client,
    key: Json,
    mongo: MongoClient,
    rule_type: RuleType,
    change: Json,
    data: list[Json],
    value: float,
    offenders: list[int],
) -> None:
    end_ms = window_end()
    ids = store_events(mongo, uuid.UUID(key["tenant_id"]), [end_ms - 1_000 + n for n in range(len(data))], data)
    found = evaluate(client, create_rule(client, rule_type, config={**CONFIG_EXAMPLES[rule_type], **change}))
    assert found["would_fire"]
    assert (found["state"], found["value"], found["sample_size"]) == ("firing", value, len(data))
    assert found["event_ids"] == [ids[index] for index in offenders]


def test_volume(client: httpx.Client, key: Json, mongo: MongoClient) -> None:
    end_ms = window_end()
    times = [end_ms - 15 * MINUTE_MS - n * HOUR_MS // 4 - 1 for n in range(24 * 4)]
    store_events(mongo, uuid.UUID(key["tenant_id"]), times, [{}] * len(times))
    found = evaluate(client, create_rule(client, "volume"))
    assert (found["would_fire"], found["value"], found["event_ids"]) == (True, -100, [])
    assert "compared with the average of 1 in the 24 hours before; the limit is -50 %" in found["message"]


def test_volume_of_a_new_type(client: httpx.Client, key: Json, mongo: MongoClient) -> None:
    """There are many more than before, since there were none before."""
    end_ms = window_end()
    tenant_id = uuid.UUID(key["tenant_id"])
    rule = create_rule(client, "volume", config={**CONFIG_EXAMPLES["volume"], "threshold_percent": 50})
    assert client.post(EVENTS, json=batch()).status_code == 201  # so the catalog has the type
    first_ms = end_ms - 24 * HOUR_MS
    mongo.sluice.event_types.update_one(
        {"_id.tenant_id": tenant_id, "_id.event_type": "purchase"},
        {"$set": {"first_seen": from_milliseconds(first_ms)}},
    )
    times = [first_ms, *(end_ms - n - 1 for n in range(20))]
    store_events(mongo, tenant_id, times, [{}] * len(times))
    found = evaluate(client, rule)
    assert (found["state"], found["value"], found["sample_size"]) == ("no_data", None, 20)
    assert found["message"].startswith('The first of "purchase" events came at ')
    earlier = from_milliseconds(first_ms - 15 * MINUTE_MS)
    mongo.sluice.event_types.update_many({"_id.tenant_id": tenant_id}, {"$min": {"first_seen": earlier}})
    assert evaluate(client, rule)["would_fire"]


@pytest.mark.parametrize(("age_minutes", "would_fire"), [(59, False), (60, False), (61, True)])
def test_freshness(client: httpx.Client, key: Json, mongo: MongoClient, age_minutes: int, would_fire: bool) -> None:
    end_ms = window_end()
    (event_id,) = store_events(mongo, uuid.UUID(key["tenant_id"]), [end_ms - age_minutes * MINUTE_MS], [{}])
    found = evaluate(client, create_rule(client, "freshness"))
    assert (found["would_fire"], found["value"]) == (would_fire, age_minutes)
    assert found["event_ids"] == ([event_id] if would_fire else [])


@pytest.mark.parametrize(
    ("rule_type", "state"),
    [
        ("threshold", "no_data"),
        ("missing_field", "no_data"),
        ("volume", "no_data"),
        ("freshness", "firing"),
        ("schema", "no_data"),
    ],
)
def test_without_events(client: httpx.Client, rule_type: RuleType, state: str) -> None:
    found = evaluate(client, create_rule(client, rule_type))
    assert (found["state"], found["value"], found["sample_size"]) == (state, None, 0)
    assert found["would_fire"] == (state == "firing")


def test_what_is_just_received_is_not_complete(client: httpx.Client) -> None:
    """It is in no window before its minute is complete, since other events of that minute may still be stored."""
    assert client.post(EVENTS, json=batch(3)).status_code == 201
    assert evaluate(client, create_rule(client))["sample_size"] == 0


def test_the_window_ends_at_the_last_complete_minute(client: httpx.Client) -> None:
    end_ms = window_end()
    found = evaluate(client, create_rule(client))
    ends = [time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1_000)) for ms in (end_ms - 15 * MINUTE_MS, end_ms)]
    assert [found["window_start"], found["window_end"]] == ends


def test_it_changes_nothing(client: httpx.Client, key: Json, mongo: MongoClient) -> None:
    end_ms = window_end()
    store_events(mongo, uuid.UUID(key["tenant_id"]), [end_ms - 1], [{"amount": 50}])
    rule = create_rule(client, enabled=False)
    before = contents(mongo, key)
    found = evaluate(client, rule)
    assert found["would_fire"]  # a disabled rule can be tried too
    assert evaluate(client, rule) == found
    assert client.get(f"{RULES}/{rule['id']}").json() == rule
    assert contents(mongo, key) == before


def contents(mongo: MongoClient, key: Json) -> dict[str, list[Any]]:
    """All that the tenant's monitoring has in the database."""
    own = {"_id.tenant_id": uuid.UUID(key["tenant_id"])}
    names = ("rules", "rule_results", "alerts", "deliveries")
    return {name: list(mongo.sluice[name].find(own)) for name in names}
