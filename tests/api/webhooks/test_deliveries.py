"""What receivers get, and what tenants see of it."""

import json
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx
import pytest
import standardwebhooks
import svix

from storage.deliveries import none_of
from tests.support.alerts import alert, transition
from tests.support.harness import Json, MongoClient, Server, embedded_url, wait_until
from tests.support.receiver import Received, Receiver, Reply
from tests.support.webhooks import deliveries, happen, make, path_of, tenant_of, try_out, wait_for_attempts

EVERY_HOST = "http://127.0.0.1:1/"
"""Where nothing listens."""


def test_a_test_is_sent_signed_and_shown(hooks: httpx.Client, receiving: Receiver) -> None:
    made = make(hooks, receiving.url)
    shown = try_out(hooks, made)
    [got] = receiving.received
    assert (got.path, got.headers["content-type"]) == ("/hook", "application/json")
    assert got.message_id == shown["id"]
    for verifier in (standardwebhooks.Webhook(made["secret"]), svix.Webhook(made["secret"])):
        verifier.verify(got.body, dict(got.headers))
    assert json.loads(got.body)["type"] == "webhook.test"
    [attempt] = shown["attempts"]
    assert (shown["event"], shown["state"], shown["next_attempt_at"]) == ("webhook.test", "delivered", None)
    assert (attempt["status"], attempt["error"], attempt["response"]) == (200, None, "")
    assert attempt["duration_ms"] >= 0


def test_a_transition_reaches_each_webhook_that_wants_it(
    hook_server: Server, hook_key: Json, hooks: httpx.Client, receiving: Receiver
) -> None:
    both = make(hooks, receiving.url + "?both")
    make(hooks, receiving.url + "?resolved", "resolved", events=["alert.resolved"])
    make(hooks, receiving.url + "?slack", "slack", format="slack", events=["alert.opened"])
    opened = transition(alert(tenant_of(hook_key)), at=datetime.now(UTC))
    happen(embedded_url(hook_server.data_dir), [opened])
    wait_until(lambda: len(receiving.received) == 2, "both webhooks are called")
    by_path = {each.path: json.loads(each.body) for each in receiving.received}
    assert set(by_path) == {"/hook?both", "/hook?slack"}
    assert by_path["/hook?both"]["type"] == "alert.opened"
    assert by_path["/hook?both"]["data"]["id"] == str(opened.alert.id)
    assert "few purchases" in by_path["/hook?slack"]["text"]
    [listed] = deliveries(hooks, both)
    assert listed["event"] == "alert.opened"


def test_a_resolution_waits_for_an_opening_that_failed(
    hook_server: Server, hook_key: Json, hooks: httpx.Client, receiving: Receiver
) -> None:
    made = make(hooks, receiving.url)
    receiving.reply = lambda _: Reply(503 if len(receiving.received) == 1 else 200)
    now, open_alert = datetime.now(UTC), alert(tenant_of(hook_key))
    resolved = alert(open_alert.tenant_id, open_alert.rule_id, now)
    happen(
        embedded_url(hook_server.data_dir),
        [transition(open_alert, at=now), transition(resolved, "alert.resolved", now + timedelta(milliseconds=1))],
    )
    wait_until(lambda: len(receiving.received) == 3, "three calls")
    assert [json.loads(each.body)["type"] for each in receiving.received] == [
        "alert.opened",
        "alert.opened",
        "alert.resolved",
    ]
    wait_until(lambda: [each["state"] for each in deliveries(hooks, made)] == ["delivered"] * 2, "both are noted")


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_2xx_is_success(hooks: httpx.Client, receiving: Receiver, status: int) -> None:
    receiving.reply = lambda _: Reply(status)
    shown = try_out(hooks, make(hooks, receiving.url))
    assert (shown["state"], shown["attempts"][0]["status"], shown["attempts"][0]["error"]) == (
        "delivered",
        status,
        None,
    )


@pytest.mark.parametrize("status", [302, 307, 400, 404, 429, 500, 503])
def test_anything_else_is_a_failure_that_is_tried_again(hooks: httpx.Client, receiving: Receiver, status: int) -> None:
    receiving.reply = lambda _: Reply(status, {"Location": receiving.url})
    shown = try_out(hooks, make(hooks, receiving.url))
    [attempt] = shown["attempts"]
    assert (shown["state"], attempt["status"]) == ("pending", status)
    assert str(status) in attempt["error"]
    due = time_of(shown["next_attempt_at"])
    assert time_of(attempt["at"]) + timedelta(seconds=4) <= due <= datetime.now(UTC) + timedelta(seconds=6)
    assert len(receiving.received) == 1  # a redirect is not followed


def time_of(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_failure_is_sent_again_with_the_same_id_and_body(hooks: httpx.Client, receiving: Receiver) -> None:
    receiving.reply = lambda _: Reply(500 if len(receiving.received) == 1 else 200)
    made = make(hooks, receiving.url)
    first = try_out(hooks, made)
    shown = wait_for_attempts(hooks, made, first["id"], 2)
    assert (shown["state"], [each["status"] for each in shown["attempts"]]) == ("delivered", [500, 200])
    one, two = receiving.received
    assert (one.message_id, one.body) == (two.message_id, two.body)
    assert int(two.headers["webhook-timestamp"]) - int(one.headers["webhook-timestamp"]) >= 4
    svix.Webhook(made["secret"]).verify(two.body, dict(two.headers))


def test_retry_after_is_honoured(hooks: httpx.Client, receiving: Receiver) -> None:
    receiving.reply = lambda _: Reply(429, {"Retry-After": "3600"})
    shown = try_out(hooks, make(hooks, receiving.url))
    delay = time_of(shown["next_attempt_at"]) - time_of(shown["attempts"][0]["at"])
    assert timedelta(minutes=60) <= delay <= timedelta(minutes=61)


def test_410_disables_and_a_test_that_succeeds_enables_again(
    hook_server: Server, hook_key: Json, hooks: httpx.Client, receiving: Receiver
) -> None:
    made = make(hooks, receiving.url)
    receiving.reply = lambda _: Reply(410)
    shown = try_out(hooks, made)
    assert (shown["state"], shown["next_attempt_at"]) == ("failed", None)
    assert hooks.get(path_of(made)).json()["disabled_at"] is not None
    happen(embedded_url(hook_server.data_dir), [transition(alert(tenant_of(hook_key)))])
    assert len(deliveries(hooks, made)) == 1
    receiving.reply = lambda _: Reply()
    next_second()
    try_out(hooks, made)
    assert hooks.get(path_of(made)).json()["disabled_at"] is None
    happen(embedded_url(hook_server.data_dir), [transition(alert(tenant_of(hook_key)))])
    wait_until(lambda: len(receiving.received) == 3, "a delivery to the enabled webhook")


def next_second() -> None:
    """Wait until a test is another one than those before."""
    second = int(time.time())
    wait_until(lambda: int(time.time()) > second, "the next second")


def test_what_is_pending_fails_once_the_webhook_is_disabled(
    hook_server: Server, hook_key: Json, hooks: httpx.Client, receiving: Receiver
) -> None:
    made = make(hooks, receiving.url)
    receiving.reply = lambda _: Reply(500, {"Retry-After": "3600"})
    happen(embedded_url(hook_server.data_dir), [transition(alert(tenant_of(hook_key)))])
    wait_until(lambda: deliveries(hooks, made)[0]["attempts"], "an attempt")
    receiving.reply = lambda _: Reply(410)
    try_out(hooks, made)
    with hook_server.mongo() as mongo:
        mongo.sluice.deliveries.update_many(
            {"webhook_id": UUID(made["id"]), "state": "pending"}, {"$set": {"due_at": datetime.now(UTC)}}
        )
    wait_until(lambda: all(each["state"] == "failed" for each in deliveries(hooks, made)), "both have failed")
    assert len(receiving.received) == 2
    assert "disabled" in deliveries(hooks, made)[1]["attempts"][-1]["error"]


def test_the_first_4_kib_of_a_response_are_kept(hooks: httpx.Client, receiving: Receiver) -> None:
    receiving.reply = lambda _: Reply(500, {}, b"$NOW \x00 \xff" + b"x" * 1_000_000)
    shown = try_out(hooks, make(hooks, receiving.url))
    assert shown["attempts"][0]["response"] == "$NOW \x00 \ufffd" + "x" * (4_096 - 8)


def test_a_host_that_does_not_listen(hooks: httpx.Client) -> None:
    shown = try_out(hooks, make(hooks, EVERY_HOST))
    [attempt] = shown["attempts"]
    assert (attempt["status"], attempt["response"]) == (None, "")
    assert attempt["error"] == "The receiver cannot be called: no connection"


def test_a_delivery_is_sent_again_by_hand(hooks: httpx.Client, receiving: Receiver) -> None:
    made = make(hooks, receiving.url)
    first = try_out(hooks, made)
    response = hooks.post(path_of(made, "deliveries", first["id"], "resend"))
    assert (response.status_code, response.json()["state"]) == (202, "pending")
    shown = wait_for_attempts(hooks, made, first["id"], 2)
    assert shown["state"] == "delivered"
    one, two = receiving.received
    assert (one.message_id, one.body) == (two.message_id, two.body)


def test_a_delivery_of_another_webhook_is_not_resent(hooks: httpx.Client, receiving: Receiver) -> None:
    made, other = make(hooks, receiving.url), make(hooks, receiving.url, "other")
    first = try_out(hooks, made)
    for webhook, delivery_id in ((other, first["id"]), (made, str(uuid4())), (made, "x")):
        assert hooks.post(path_of(webhook, "deliveries", delivery_id, "resend")).status_code == 404
    assert len(receiving.received) == 1


def test_after_a_rotation_both_secrets_sign_for_a_day(
    hook_server: Server, hooks: httpx.Client, receiving: Receiver
) -> None:
    made = make(hooks, receiving.url)
    rotated = hooks.post(path_of(made, "rotate"))
    assert rotated.status_code == 200
    new = rotated.json()
    left = time_of(new["previous_secret_valid_until"]) - datetime.now(UTC)
    assert timedelta(hours=23, minutes=59) < left <= timedelta(hours=24, seconds=5)
    try_out(hooks, made)
    verify_each(receiving.received[0], made["secret"], new["secret"])
    with hook_server.mongo() as mongo:
        past = datetime.now(UTC) - timedelta(seconds=1)
        mongo.sluice.webhooks.update_one(query_of(made), {"$set": {"secrets.previous_until": past}})
    next_second()
    try_out(hooks, made)
    verify_each(receiving.received[1], new["secret"])
    with pytest.raises(svix.webhooks.WebhookVerificationError):
        svix.Webhook(made["secret"]).verify(receiving.received[1].body, dict(receiving.received[1].headers))


def query_of(webhook: Json) -> Json:
    return {"_id.id": UUID(webhook["id"])}


def verify_each(got: Received, *secrets: str) -> None:
    for secret in secrets:
        standardwebhooks.Webhook(secret).verify(got.body, dict(got.headers))
        svix.Webhook(secret).verify(got.body, dict(got.headers))


def test_tests_of_one_second_are_one(hooks: httpx.Client, receiving: Receiver) -> None:
    made = make(hooks, receiving.url)
    ids, second = set[str](), 0
    while second != int(time.time()):  # all of them were made in that second
        next_second()
        second = int(time.time())
        ids = {hooks.post(path_of(made, "test")).json()["id"] for _ in range(5)}
    assert len(ids) == 1


def test_with_a_webhook_go_its_deliveries(hook_server: Server, hooks: httpx.Client, receiving: Receiver) -> None:
    receiving.reply = lambda _: Reply(500)
    made = make(hooks, receiving.url)
    try_out(hooks, made)
    hooks.delete(path_of(made))
    with hook_server.mongo() as mongo:
        assert mongo.sluice.deliveries.count_documents({"webhook_id": UUID(made["id"])}) == 0


def test_a_delivery_that_outlived_its_webhook_is_dropped(
    hook_server: Server, hook_key: Json, hooks: httpx.Client
) -> None:
    made = make(hooks, EVERY_HOST)
    with hook_server.mongo() as mongo:
        happen(embedded_url(hook_server.data_dir), [transition(alert(tenant_of(hook_key)))])
        mongo.sluice.webhooks.delete_one(query_of(made))
        query = {"webhook_id": UUID(made["id"])}
        due = {"$set": {"due_at": datetime.now(UTC)}}  # it may have been tried before
        mongo.sluice.deliveries.update_many(query, due)
        wait_until(lambda: mongo.sluice.deliveries.count_documents(query) == 0, "it is dropped")


def test_what_is_due_is_found_by_its_index(hook_server: Server) -> None:
    with hook_server.mongo() as mongo:
        query = {"$expr": {"$lte": ["$due_at", "$$NOW"]}, "due_at": {"$exists": True}}
        assert_uses_index(mongo, query)
        others = none_of([uuid4()])
        assert_uses_index(mongo, {**query, "webhook_id": others, "_id.tenant_id": others})


def assert_uses_index(mongo: MongoClient, query: Json) -> None:
    plan = mongo.sluice.command(
        "explain", {"find": "deliveries", "filter": query, "sort": {"due_at": 1}}, verbosity="queryPlanner"
    )
    text = json.dumps(plan["queryPlanner"]["winningPlan"], default=str)
    assert "due_at_1_webhook_id_1__id.tenant_id_1" in text
    assert "SORT" not in text
