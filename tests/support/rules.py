"""Rules and evaluations for tests."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx

from server.core.events.ids import new_ids
from server.core.rules.config import ThresholdConfig
from server.core.rules.model import Evaluation, Rule, RuleState, RuleType, Window
from server.core.times import from_milliseconds
from tests.support.harness import Json, MongoClient

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
MINUTE_MS = 60_000
WINDOW = Window(0, MINUTE_MS)

MANY_PURCHASES = ThresholdConfig(event_type="purchase", field="count", operator=">", value=10, window_minutes=1)


def rule(**fields: Any) -> Rule:
    """A rule that fires if there are more than 10 purchases in a minute."""
    defaults = {
        "id": uuid.uuid4(),
        "tenant_id": uuid.uuid4(),
        "name": "many purchases",
        "rule_type": "threshold",
        "config": MANY_PURCHASES,
        "created_at": NOW,
        "updated_at": NOW,
        "evaluated_until_ms": 0,
    }
    return Rule(**{**defaults, **fields})


def evaluation(state: RuleState, value: float | None = None, **fields: Any) -> Evaluation:
    """An evaluation of the first minute of 1970."""
    return Evaluation(
        **{"window": WINDOW, "sample_size": 0, "message": f"{state} {value}", **fields}, state=state, value=value
    )


CONFIG_EXAMPLES: dict[RuleType, Json] = {
    "threshold": {
        "event_type": "purchase",
        "source": "backend",
        "field": "amount",
        "aggregate": "avg",
        "operator": ">",
        "value": 10,
        "window_minutes": 15,
    },
    "missing_field": {
        "event_type": "purchase",
        "required_fields": ["amount", "user.id"],
        "window_minutes": 15,
        "max_percent": 1,
    },
    "volume": {
        "event_type": "purchase",
        "threshold_percent": -50,
        "current_window_minutes": 15,
        "comparison_window_hours": 24,
    },
    "freshness": {"event_type": "purchase", "max_age_minutes": 60},
    "schema": {
        "event_type": "purchase",
        "fields": {"amount": "number", "user.id": ["string", "null"]},
        "allow_unknown": False,
        "window_minutes": 15,
    },
}
"""A configuration of each type."""

RULES = "/api/v1/rules"


def rule_fields(rule_type: RuleType = "threshold", **fields: Any) -> Json:
    """A good body of a POST, for a rule of the type."""
    return {"name": "a rule", "rule_type": rule_type, "config": CONFIG_EXAMPLES[rule_type], **fields}


def create_rule(client: httpx.Client, rule_type: RuleType = "threshold", **fields: Any) -> Json:
    """A rule that is made over REST."""
    response = client.post(RULES, json=rule_fields(rule_type, **fields))
    assert response.status_code == 201, response.text
    made: Json = response.json()
    return made


def store_events(mongo: MongoClient, tenant_id: UUID, times_ms: Sequence[int], data: Sequence[Json]) -> list[str]:
    """Store purchases from "backend" as if they had been received at these times. Returns their ids."""
    ids = [UUID(bytes=new_ids(time_ms, 1).binary[0]) for time_ms in times_ms]
    documents: list[Json] = [
        {
            "_id": {"tenant_id": tenant_id, "id": event_id},
            "source": "backend",
            "event_type": "purchase",
            "data": each,
            "timestamp": from_milliseconds(time_ms),
            "received_at": from_milliseconds(time_ms),
        }
        for time_ms, event_id, each in zip(times_ms, ids, data, strict=True)
    ]
    mongo.sluice.events.insert_many(documents)
    return list(map(str, ids))


def assert_problem(response: httpx.Response, status: int, code: str, detail: str) -> None:
    """Fails unless a response is this problem, whose detail begins like this."""
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.json()["detail"].startswith(detail)
