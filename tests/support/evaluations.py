"""Rules in a database, the results of their evaluation, and what must be true of them."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from server.core.events.ids import lowest_id
from server.core.rules.windows import COMPLETE_AFTER_MS
from server.core.times import to_milliseconds
from tests.support.harness import Json, MongoClient, Server

RULES = "/api/v1/rules"

COUNT: Json = {"event_type": "purchase", "field": "count", "operator": ">", "value": 10, "window_minutes": 1}
"""The configuration of a threshold that fires if there are more than 10 purchases in a minute."""


def create_rule(server: Server, key: Json, **fields: object) -> Json:
    """A new rule of the key's tenant."""
    body = {"name": "many purchases", "rule_type": "threshold", "config": COUNT, **fields}
    with server.client(key["key"]) as client:
        rule: Json = client.post(RULES, json=body).raise_for_status().json()
    return rule


def results_of(mongo: MongoClient, rule_id: str) -> list[Json]:
    """The results of a rule, by due time."""
    return list(mongo.sluice.rule_results.find({"_id.rule_id": UUID(rule_id)}).sort("_id.end", 1))


def check_due_times(mongo: MongoClient, rule_id: str, interval_ms: int) -> list[Json]:
    """Each due time since the rule was made has one result. Returns the results.

    The rule may be evaluated meanwhile. So the last due time is one to which it was evaluated before they were read, or
    after it.
    """
    (created_ms, before_ms), results = rule_times(mongo, rule_id), results_of(mongo, rule_id)
    _, after_ms = rule_times(mongo, rule_id)
    last_ms = due_ms(results[-1]) if results else before_ms
    assert before_ms <= last_ms <= after_ms
    first_ms = created_ms - created_ms % interval_ms + interval_ms
    assert [due_ms(result) for result in results] == list(range(first_ms, last_ms + 1, interval_ms))
    return results


def rule_times(mongo: MongoClient, rule_id: str) -> tuple[int, int]:
    """When a rule was made, and up to when it is evaluated, in milliseconds since 1970."""
    rule = mongo.sluice.rules.find_one({"_id.id": UUID(rule_id)})
    assert rule is not None
    return to_milliseconds(rule["created_at"]), to_milliseconds(rule["evaluated_until"])


def check_values(mongo: MongoClient, tenant_id: str, results: Sequence[Json]) -> None:
    """The value of each result is the number of purchases that are stored in its window."""
    for window in {(result["window_start"], result["window_end"]) for result in results}:
        values = {each["value"] for each in results if window == (each["window_start"], each["window_end"])}
        assert values - {None} <= {count_events(mongo, tenant_id, *window)}


def count_events(mongo: MongoClient, tenant_id: str, start: datetime, end: datetime) -> int:
    """The number of purchases of a tenant that are stored in a window."""
    low, high = (
        {"tenant_id": UUID(tenant_id), "id": UUID(bytes=lowest_id(to_milliseconds(each)))} for each in (start, end)
    )
    return mongo.sluice.events.count_documents({"_id": {"$gte": low, "$lt": high}, "event_type": "purchase"})


def check_alerts(mongo: MongoClient, rule_id: str, results: Sequence[Json]) -> list[str]:
    """A rule has the alerts that follow from its results, and no others. Returns the events of their transitions."""
    states = [result["state"] for result in results if result["state"] in {"firing", "inactive"}]
    turns = [state for before, state in zip(["inactive", *states], states, strict=False) if before != state]
    alerts = list(mongo.sluice.alerts.find({"rule_id": UUID(rule_id)}).sort("_id", 1))
    assert len(alerts) == turns.count("firing")
    assert sum("is_open" in alert for alert in alerts) == (turns[-1:] == ["firing"])
    return ["alert.opened" if state == "firing" else "alert.resolved" for state in turns]


def due_ms(result: Json) -> int:
    """The due time of a result, in milliseconds since 1970."""
    return to_milliseconds(result["_id"]["end"])


def lateness_ms(result: Json) -> int:
    """How much later than it could have been a result was stored."""
    return to_milliseconds(result["evaluated_at"]) - COMPLETE_AFTER_MS - due_ms(result)
