"""`/api/v1/rules`: what is made, listed, changed and deleted, of whom, and what is rejected."""

import json
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import httpx
import pytest

from server.core.rules.model import RuleType
from server.core.rules.store import MAX_RULES
from tests.support.harness import Json, MongoClient, Server
from tests.support.rules import CONFIG_EXAMPLES, RULES, assert_problem, create_rule, rule_fields

TYPES = get_args(RuleType)


@pytest.mark.parametrize("rule_type", TYPES)
def test_a_rule_is_made_listed_and_deleted(client: httpx.Client, rule_type: RuleType) -> None:
    response = client.post(RULES, json=rule_fields(rule_type, tags=["a"], category="sales", severity="critical"))
    made = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"{RULES}/{made['id']}"
    assert made["config"] == {**made["config"], **CONFIG_EXAMPLES[rule_type]}
    assert made == {
        "id": str(uuid.UUID(made["id"])),
        "name": "a rule",
        "rule_type": rule_type,
        "config": made["config"],
        "severity": "critical",
        "enabled": True,
        "tags": ["a"],
        "category": "sales",
        "state": "inactive",
        "evaluated_until": made["created_at"],
        "created_at": made["created_at"],
        "updated_at": made["created_at"],
    }
    assert client.get(f"{RULES}/{made['id']}").json() == made
    assert client.get(RULES).json() == [made]
    deleted = client.delete(f"{RULES}/{made['id']}")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert client.get(RULES).json() == []
    for again in (client.get, client.delete):
        assert_problem(again(f"{RULES}/{made['id']}"), 404, "not_found", "This tenant has no rule with this id")


def test_rules_are_listed_oldest_first(client: httpx.Client) -> None:
    names = ["b", "c", "a"]
    for name in names:
        create_rule(client, name=name)
    assert [each["name"] for each in client.get(RULES).json()] == names


@pytest.mark.parametrize("rule_type", TYPES)
def test_a_change_replaces_what_it_names(client: httpx.Client, rule_type: RuleType) -> None:
    made = create_rule(client, rule_type, tags=["a"], category="sales")
    path = f"{RULES}/{made['id']}"
    changed = client.patch(path, json={"name": "b", "severity": "info"}).json()
    assert changed["updated_at"] > made["updated_at"]
    assert changed == {**made, "name": "b", "severity": "info", "updated_at": changed["updated_at"]}
    config = {**made["config"], "event_type": "refund", "source": None}
    assert client.patch(path, json={"config": config}).json()["config"] == config
    assert client.get(path).json() == {**changed, "config": config, "updated_at": client.get(path).json()["updated_at"]}
    other = client.patch(path, json={"rule_type": "freshness", "config": CONFIG_EXAMPLES["freshness"]}).json()
    assert (other["rule_type"], other["config"]["max_age_minutes"]) == ("freshness", 60)


def test_the_documented_configuration_with_its_severity(client: httpx.Client) -> None:
    """The public documentation has the severity in `config`."""
    config = {
        "event_type": "purchase",
        "field": "count",
        "operator": "<",
        "value": 10,
        "window_minutes": 60,
        "severity": "critical",
    }
    made = create_rule(client, config=config)
    assert made["severity"] == "critical"
    assert "severity" not in made["config"]
    assert client.patch(f"{RULES}/{made['id']}", json={"config": {**config, "severity": "info"}}).json()[
        "severity"
    ] == ("info")


BAD: list[tuple[Json, str]] = [
    ({"name": None}, "name: "),
    ({"title": "a"}, "title: Object contains unknown field"),
    ({"rule_type": "anomaly"}, "rule_type: must be one of"),
    ({"config": {}}, "config.event_type: Object missing required field"),
    ({"config": {**CONFIG_EXAMPLES["threshold"], "window": 1}}, "config.window: Object contains unknown field"),
    ({"config": {**CONFIG_EXAMPLES["threshold"], "window_minutes": 0}}, "config.window_minutes: "),
    ({"severity": "high"}, "severity: must be one of"),
]


@pytest.mark.parametrize(("change", "detail"), BAD)
def test_a_bad_field_is_named(client: httpx.Client, change: Json, detail: str) -> None:
    assert_problem(client.post(RULES, json=rule_fields() | change), 400, "invalid_parameter", detail)
    made = create_rule(client)
    assert_problem(client.patch(f"{RULES}/{made['id']}", json=change), 400, "invalid_parameter", detail)
    assert client.get(RULES).json() == [made]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "malformed_json"),
        (b"{", "malformed_json"),
        (b'{"name": "\\ud800"}', "malformed_json"),
        (b"[]", "invalid_parameter"),
        (b'"a"', "invalid_parameter"),
    ],
)
def test_a_body_that_is_no_object(client: httpx.Client, content: bytes, code: str) -> None:
    headers = {"Content-Type": "application/json"}
    path = f"{RULES}/{create_rule(client)['id']}"
    for response in (
        client.post(RULES, content=content, headers=headers),
        client.patch(path, content=content, headers=headers),
    ):
        assert_problem(response, 400, code, "")
        assert not re.search(r"`(int|str|dict|list)`", response.json()["detail"])


def test_a_number_that_is_too_large(client: httpx.Client) -> None:
    config = {**CONFIG_EXAMPLES["threshold"], "value": "LARGE"}
    content = json.dumps(rule_fields(config=config)).replace('"LARGE"', "1e999")
    response = client.post(RULES, content=content, headers={"Content-Type": "application/json"})
    assert_problem(response, 400, "invalid_parameter", "config.value: must be a finite number")


def test_a_name_is_there_once(client: httpx.Client, server: Server) -> None:
    create_rule(client, name="a")
    other = create_rule(client, name="b")
    assert_problem(client.post(RULES, json=rule_fields(name="a")), 409, "conflict", "name: ")
    assert_problem(client.patch(f"{RULES}/{other['id']}", json={"name": "a"}), 409, "conflict", "name: ")
    assert client.get(f"{RULES}/{other['id']}").json() == other
    with server.client(server.create_key(f"tenant-{uuid.uuid4().hex}", "--rate-limit", "0")["key"]) as neighbour:
        create_rule(neighbour, name="a")


def test_of_those_made_at_once_one_has_the_name(client: httpx.Client) -> None:
    def post(_: int) -> int:
        return client.post(RULES, json=rule_fields()).status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(post, range(8))) == [201, *[409] * 7]
    assert len(client.get(RULES).json()) == 1


def test_changes_at_once_are_all_made(client: httpx.Client) -> None:
    path = f"{RULES}/{create_rule(client)['id']}"
    changes: list[Json] = [{"name": "b"}, {"severity": "info"}, {"tags": ["x"]}, {"category": "c"}, {"enabled": False}]
    with ThreadPoolExecutor(len(changes)) as pool:
        responses = list(pool.map(lambda change: client.patch(path, json=change), changes))
    assert [response.status_code for response in responses] == [200] * len(changes)
    rule = client.get(path).json()
    assert {field: rule[field] for change in changes for field in change} == {
        field: value for change in changes for field, value in change.items()
    }


def test_a_tenant_has_so_many_rules(client: httpx.Client, key: Json, mongo: MongoClient) -> None:
    create_rule(client)
    rules = mongo.sluice.rules
    one = rules.find_one({"name": "a rule", "_id.tenant_id": uuid.UUID(key["tenant_id"])})
    assert one is not None
    many = [{**one, "_id": {**one["_id"], "id": uuid.uuid4()}, "name": str(n)} for n in range(MAX_RULES - 2)]
    rules.insert_many(many)
    last = create_rule(client, name="last")
    assert len(client.get(RULES).json()) == MAX_RULES
    assert_problem(client.post(RULES, json=rule_fields(name="more")), 409, "conflict", f"This tenant has {MAX_RULES}")
    client.delete(f"{RULES}/{last['id']}")
    create_rule(client, name="more")
