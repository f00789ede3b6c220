"""Documents that an operator has spoiled: what is about others goes on, and they come back once they are corrected."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from server.core.webhooks.delivering import UNREADABLE
from tests.support.alerts import alert, transition
from tests.support.harness import Json, Server, embedded_url, wait_until
from tests.support.receiver import Receiver, Reply
from tests.support.rules import assert_problem, create_rule
from tests.support.stored_alerts import ALERTS, open_alert
from tests.support.webhooks import WEBHOOKS, deliveries, happen, make, path_of, tenant_of, wait_for_attempts

RULES = "/api/v1/rules"

DETAIL = "What is stored of this cannot be read"

SPOILED = 40
"""Deliveries: more than are looked at together."""


def own(made: Json) -> Json:
    """The query for what was made."""
    return {"_id.id": UUID(made["id"])}


def test_a_webhook(hook_server: Server, hook_key: Json, hooks: httpx.Client, receiving: Receiver) -> None:
    spoiled, good = make(hooks, receiving.url + "?spoiled", "spoiled"), make(hooks, receiving.url + "?good", "good")
    receiving.reply = lambda _: Reply(503)
    told = transition(alert(tenant_of(hook_key)), at=datetime.now(UTC))
    happen(embedded_url(hook_server.data_dir), [told])
    [pending] = deliveries(hooks, spoiled)
    wait_for_attempts(hooks, spoiled, pending["id"])
    with hook_server.mongo() as mongo:
        [stored] = mongo.sluice.webhooks.find(own(spoiled))
        mongo.sluice.webhooks.update_one(own(spoiled), {"$unset": {"secrets": 1}})
        receiving.reply = lambda _: Reply()
        mongo.sluice.deliveries.update_many({"state": "pending"}, {"$set": {"due_at": datetime.now(UTC)}})
        wait_until(lambda: deliveries(hooks, good)[0]["state"] == "delivered", "the other webhook is called")
        assert [each["name"] for each in hooks.get(WEBHOOKS).json()] == ["good"]
        assert_problem(hooks.get(path_of(spoiled)), 503, "unavailable", DETAIL)
        query = {"_id.id": UUID(pending["id"]), "attempts.1": {"$exists": True}}
        wait_until(lambda: mongo.sluice.deliveries.find_one(query), "the spoiled one is looked at, too")
        mongo.sluice.webhooks.update_one(own(spoiled), {"$set": {"secrets": stored["secrets"]}})
    tried = wait_for_attempts(hooks, spoiled, pending["id"], 2)
    assert (tried["state"], tried["attempts"][-1]["error"]) == ("pending", UNREADABLE)
    assert hooks.post(path_of(spoiled, "deliveries", pending["id"], "resend")).status_code == 202
    wait_until(lambda: deliveries(hooks, spoiled)[0]["state"] == "delivered", "it is called once it is corrected")


def test_a_webhook_can_be_deleted(hook_server: Server, hooks: httpx.Client, receiving: Receiver) -> None:
    made = make(hooks, receiving.url)
    with hook_server.mongo() as mongo:
        mongo.sluice.webhooks.update_one(own(made), {"$set": {"events": "all"}})
    assert hooks.delete(path_of(made)).status_code == 204
    assert hooks.get(path_of(made)).status_code == 404


def test_deliveries(hook_server: Server, hook_key: Json, hooks: httpx.Client, receiving: Receiver) -> None:
    """Those that are spoiled are due first, and of the same rule."""
    made = make(hooks, receiving.url)
    told = transition(alert(tenant_of(hook_key)), at=datetime.now(UTC))
    early = datetime.now(UTC) - timedelta(days=1)
    common = {"webhook_id": UUID(made["id"]), "subject": told.alert.rule_id, "due_at": early, "state": "unknown"}
    spoiled = [
        {"_id": {"tenant_id": tenant_of(hook_key), "id": UUID(int=number)}, **common} for number in range(SPOILED)
    ]
    with hook_server.mongo() as mongo:
        mongo.sluice.deliveries.insert_many(spoiled)
        happen(embedded_url(hook_server.data_dir), [told])
        wait_until(lambda: receiving.received, "the good one is delivered")
        [shown] = deliveries(hooks, made)
        assert shown["id"] == receiving.received[0].message_id
        left = {"webhook_id": UUID(made["id"]), "state": "unknown"}
        assert mongo.sluice.deliveries.count_documents(left) == SPOILED
        mongo.sluice.deliveries.delete_many(left)


@pytest.mark.parametrize(
    "change", [{"config": "{}"}, {"rule_type": "other"}, {"enabled": "yes"}, {"created_at": None}, {"tags": {}}]
)
def test_a_rule(hook_server: Server, hooks: httpx.Client, change: dict[str, Any]) -> None:
    spoiled, good = create_rule(hooks), create_rule(hooks, name="good")
    with hook_server.mongo() as mongo:
        mongo.sluice.rules.update_one(own(spoiled), {"$set": change})
    path = f"{RULES}/{spoiled['id']}"
    assert [each["id"] for each in hooks.get(RULES).json()] == [good["id"]]
    assert_problem(hooks.get(path), 503, "unavailable", DETAIL)
    assert hooks.patch(path, json={"enabled": False}).status_code == 503
    assert hooks.post(f"{path}/evaluate").status_code == 503
    assert hooks.delete(path).status_code == 204
    assert hooks.get(path).status_code == 404


def test_alerts(hook_server: Server, hook_key: Json, hooks: httpx.Client) -> None:
    """A page that lacks one has another one in its place, so its end is not taken for the end of the list."""
    alerts = [open_alert(hook_server, hook_key, id=uuid4()) for _ in range(5)]
    spoiled = {"_id.id": {"$in": [alerts[1].id, alerts[3].id]}}
    with hook_server.mongo() as mongo:
        mongo.sluice.alerts.update_many(spoiled, {"$set": {"severity": "huge"}})
    found, link = list[str](), f"{ALERTS}?limit=2"
    while link:
        page = hooks.get(link).raise_for_status()
        found += [each["id"] for each in page.json()]
        link = page.links.get("next", {}).get("url", "")
    assert found == [str(alerts[index].id) for index in (4, 2, 0)]
    assert hooks.get(f"{ALERTS}/{alerts[1].id}").status_code == 503
    assert hooks.post(f"{ALERTS}/{alerts[1].id}/resolve").status_code == 503
