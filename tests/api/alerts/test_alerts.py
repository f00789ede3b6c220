"""Alerts are listed and changed by their tenant, and by nobody else."""

import uuid
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from server.core.alerts.model import Alert
from server.core.deadline import Deadline
from server.core.times import format_time
from storage.alerts import StoredAlerts
from storage.client import in_transaction
from storage.commands import Database
from tests.support.harness import Json, MongoClient, Server
from tests.support.problems import assert_problem
from tests.support.rules import rule
from tests.support.stored_alerts import ALERTS, listed, on_database, open_alert, open_alert_of

RECENT = timedelta(seconds=30)


def assert_recent(time: str) -> None:
    """It was a moment ago."""
    assert datetime.now(UTC) - RECENT < datetime.fromisoformat(time).replace(tzinfo=UTC) <= datetime.now(UTC)


def ids_of(alerts: list[Json]) -> list[str]:
    return [alert["id"] for alert in alerts]


def change(client: httpx.Client, alert: Alert, what: str) -> Json:
    """The alert as it is after it was acknowledged or resolved."""
    changed: Json = client.post(f"{ALERTS}/{alert.id}/{what}").raise_for_status().json()
    return changed


def test_an_alert_has_the_fields_of_the_contract(server: Server, client: httpx.Client, key: Json) -> None:
    alert = open_alert(server, key, severity="critical")
    shown = {
        "id": str(alert.id),
        "rule_id": str(alert.rule_id),
        "rule_name": "many purchases",
        "severity": "critical",
        "message": "firing 12",
        "value": 12.0,
        "window_start": "1970-01-01T00:00:00",
        "window_end": "1970-01-01T00:01:00",
        "event_ids": list(alert.event_ids),
        "is_resolved": False,
        "resolved_at": None,
        "is_acknowledged": False,
        "acknowledged_at": None,
        "created_at": format_time(alert.created_at),
    }
    assert listed(client) == [shown]
    assert client.get(f"{ALERTS}/{alert.id}").json() == shown


def test_no_alerts(client: httpx.Client) -> None:
    assert listed(client) == []


def test_pages_are_newest_first_and_complete(server: Server, client: httpx.Client, key: Json) -> None:
    alerts = [open_alert(server, key) for _ in range(5)]
    found, link, pages = list[str](), f"{ALERTS}?limit=2&severity=warning", 0
    while link:
        page = client.get(link).raise_for_status()
        found += ids_of(page.json())
        link, pages = page.links.get("next", {}).get("url", ""), pages + 1
    assert found == [str(alert.id) for alert in reversed(alerts)]
    assert pages == 3


def test_filters(server: Server, client: httpx.Client, key: Json) -> None:
    warning, critical, info = (open_alert(server, key, severity=each) for each in ("warning", "critical", "info"))
    change(client, info, "resolve")
    assert ids_of(listed(client, is_resolved="true")) == [str(info.id)]
    assert ids_of(listed(client, is_resolved="false")) == [str(critical.id), str(warning.id)]
    assert ids_of(listed(client, severity="critical")) == [str(critical.id)]
    assert ids_of(listed(client, rule_id=str(warning.rule_id))) == [str(warning.id)]
    assert listed(client, rule_id=str(warning.rule_id), is_resolved="true") == []
    assert listed(client, rule_id=str(uuid.uuid4())) == []


@pytest.mark.parametrize(
    "query",
    [
        "is_resolved=yes",
        "is_resolved=True",
        "severity=fatal",
        "rule_id=7",
        "limit=0",
        "limit=1001",
        "cursor=x",
        "skip=1",
        "severity=info&severity=info",
    ],
)
def test_a_bad_query_is_named(client: httpx.Client, query: str) -> None:
    assert_problem(client.get(f"{ALERTS}?{query}"), 400, "invalid_parameter", query.partition("=")[0])


def test_acknowledging_keeps_it_open_and_counts_once(server: Server, client: httpx.Client, key: Json) -> None:
    alert = open_alert(server, key)
    first = change(client, alert, "acknowledge")
    assert (first["is_acknowledged"], first["is_resolved"]) == (True, False)
    assert_recent(first["acknowledged_at"])
    assert change(client, alert, "acknowledge") == first
    assert client.get(f"{ALERTS}/{alert.id}").json() == first


def test_resolving_counts_once(server: Server, client: httpx.Client, key: Json, mongo: MongoClient) -> None:
    alert = open_alert(server, key)
    acknowledged = change(client, alert, "acknowledge")
    first = change(client, alert, "resolve")
    assert_recent(first["resolved_at"])
    assert first == {**acknowledged, "is_resolved": True, "resolved_at": first["resolved_at"]}
    assert change(client, alert, "resolve") == first
    (stored,) = mongo.sluice.alerts.find({"_id.id": alert.id})
    assert (stored["resolution"], "is_open" in stored) == ("manual", False)


def test_webhooks_are_told_of_what_opens_and_resolves(server: Server, client: httpx.Client, key: Json) -> None:
    webhook = {"name": "w", "url": "https://93.184.216.34/", "events": ["alert.opened", "alert.resolved"]}
    made = client.post("/api/v1/webhooks", json={**webhook, "format": "standard"}).raise_for_status().json()
    alert = open_alert(server, key)
    change(client, alert, "acknowledge")
    change(client, alert, "resolve")
    change(client, alert, "resolve")
    deliveries = client.get(f"/api/v1/webhooks/{made['id']}/deliveries").raise_for_status().json()
    assert [delivery["event"] for delivery in deliveries] == ["alert.resolved", "alert.opened"]


def test_a_rule_has_one_open_alert(server: Server, client: httpx.Client, key: Json) -> None:
    owner = rule(tenant_id=uuid.UUID(key["tenant_id"]))
    first = open_alert_of(server, owner)
    with pytest.raises(Exception, match="rule_id_1"):
        open_alert_of(server, owner)
    change(client, first, "resolve")
    second = open_alert_of(server, owner)
    assert ids_of(listed(client)) == [str(second.id), str(first.id)]


def test_the_alert_of_a_rule_that_goes_is_resolved(server: Server, client: httpx.Client, key: Json) -> None:
    alert = open_alert(server, key)

    async def delete_rule(storage: Database) -> None:
        alerts = StoredAlerts(storage)
        for _ in range(2):
            await in_transaction(
                storage,
                lambda session: alerts.resolve_of_rule(alert.tenant_id, alert.rule_id, "rule_deleted", session),
            )
        assert (await alerts.get(alert.tenant_id, alert.id, Deadline())).resolution == "rule_deleted"

    on_database(server, delete_rule)
    assert [found["is_resolved"] for found in listed(client)] == [True]


# --- who may


def test_alerts_of_another_tenant_are_as_unknown_ones(server: Server, client: httpx.Client, key: Json) -> None:
    alert = open_alert(server, key)
    other = server.create_key(f"other-{uuid.uuid4().hex}", "--rate-limit", "0")
    with server.client(other["key"]) as stranger:
        assert listed(stranger) == listed(stranger, cursor=str(alert.id)) == []
        for method, path in (("GET", ""), ("POST", "/acknowledge"), ("POST", "/resolve")):
            unknown = stranger.request(method, f"{ALERTS}/{uuid.uuid4()}{path}")
            foreign = stranger.request(method, f"{ALERTS}/{alert.id}{path}")
            assert_problem(foreign, 404, "not_found", "no alert")
            assert foreign.content == unknown.content
    (shown,) = listed(client)
    assert not shown["is_acknowledged"]
    assert not shown["is_resolved"]


@pytest.mark.parametrize("alert_id", ["7", "%00", "'", "00000000-0000-0000-0000-00000000000g"])
def test_no_such_alert(client: httpx.Client, alert_id: str) -> None:
    assert_problem(client.get(f"{ALERTS}/{alert_id}"), 404, "not_found", "no alert")


def test_scopes(server: Server, key: Json) -> None:
    alert = open_alert(server, key)
    reader = server.create_key(key["tenant"], "--scope", "rules:read")
    writer = server.create_key(key["tenant"], "--scope", "rules:write")
    with server.client(reader["key"]) as reading, server.client(writer["key"]) as writing:
        assert reading.get(ALERTS).status_code == reading.get(f"{ALERTS}/{alert.id}").status_code == 200
        assert reading.post(f"{ALERTS}/{alert.id}/resolve").status_code == 403
        assert writing.get(ALERTS).status_code == writing.get(f"{ALERTS}/{alert.id}").status_code == 403
        assert writing.post(f"{ALERTS}/{alert.id}/acknowledge").status_code == 200
    with server.client() as nobody:
        assert nobody.get(ALERTS).status_code == nobody.post(f"{ALERTS}/{alert.id}/resolve").status_code == 401


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("GET", "/{}"), ("POST", "/{}/acknowledge"), ("POST", "/{}/resolve")]
)
def test_trailing_slash(server: Server, client: httpx.Client, key: Json, method: str, path: str) -> None:
    path = ALERTS + path.format(open_alert(server, key).id) + "/"
    assert client.request(method, path).status_code == 200
    assert_problem(client.request(method, f"{path}?x=1"), 400, "invalid_parameter", "x:")


def test_other_methods(client: httpx.Client) -> None:
    response = client.delete(ALERTS)
    assert_problem(response, 405, "method_not_allowed", "GET")
    response = client.get(f"{ALERTS}/{uuid.uuid4()}/resolve")
    assert_problem(response, 405, "method_not_allowed", "POST")
