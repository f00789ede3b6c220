"""An open alert is resolved when its rule is disabled or deleted."""

import uuid

import httpx
import pytest

from tests.support.harness import Json, MongoClient
from tests.support.rules import NOW, RULES, create_rule

ALERTS = "/api/v1/alerts"


def open_alert(mongo: MongoClient, key: Json, rule: Json) -> str:
    """An open alert of a rule."""
    alert_id = uuid.uuid4()
    mongo.sluice.alerts.insert_one(
        {
            "_id": {"tenant_id": uuid.UUID(key["tenant_id"]), "id": alert_id},
            "rule_id": uuid.UUID(rule["id"]),
            "rule_name": rule["name"],
            "severity": "warning",
            "message": "Something is wrong",
            "value": 1.0,
            "window_start": NOW,
            "window_end": NOW,
            "event_ids": [],
            "created_at": NOW,
            "is_open": True,
        }
    )
    return str(alert_id)


@pytest.mark.parametrize("how", ["rule_disabled", "rule_deleted"])
def test_it_is_resolved(client: httpx.Client, key: Json, mongo: MongoClient, how: str) -> None:
    rule, other = create_rule(client), create_rule(client, name="other")
    own, foreign = open_alert(mongo, key, rule), open_alert(mongo, key, other)
    path = f"{RULES}/{rule['id']}"
    client.patch(path, json={"severity": "info"})
    assert not client.get(f"{ALERTS}/{own}").json()["is_resolved"]
    if how == "rule_disabled":
        assert client.patch(path, json={"enabled": False}).json()["enabled"] is False
    else:
        client.delete(path)
    alert = client.get(f"{ALERTS}/{own}").json()
    assert alert["is_resolved"]
    assert alert["resolved_at"] is not None
    stored = mongo.sluice.alerts.find_one({"_id.id": uuid.UUID(own)})
    assert stored is not None
    assert stored["resolution"] == how
    assert not client.get(f"{ALERTS}/{foreign}").json()["is_resolved"]


def test_a_disabled_rule_begins_anew(client: httpx.Client) -> None:
    path = f"{RULES}/{create_rule(client)['id']}"
    disabled = client.patch(path, json={"enabled": False}).json()
    enabled = client.patch(path, json={"enabled": True}).json()
    assert enabled["evaluated_until"] == enabled["updated_at"] > disabled["evaluated_until"]
