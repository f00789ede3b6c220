"""Bad events in a good body: each is listed with its path, and strict and lenient handling."""

import json
import re
import uuid
from collections.abc import Callable

import httpx
import pytest

from tests.support.bodies import JSON, MIB, arrays, objects
from tests.support.harness import Json, MongoClient, Server, batch, event
from tests.support.problems import EVENTS, assert_problem, count_events

BAD_EVENTS = {
    "null": ("", "Expected `object`, got `null`"),
    "[]": ("", "Expected `object`, got `array`"),
    '{"data":{}}': (".type", "missing"),
    '{"type":"a"}': (".data", "missing"),
    '{"type":1,"data":{}}': (".type", "Expected `string`, got `number`"),
    '{"type":null,"data":{}}': (".type", "Expected `string`, got `null`"),
    '{"type":"","data":{}}': (".type", "1"),
    '{"type":"' + "x" * 256 + '","data":{}}': (".type", "255"),
    r'{"type":"\ud800","data":{}}': (".type", "surrogate"),
    '{"type":"a","data":null}': (".data", "Expected `object`, got `null`"),
    '{"type":"a","data":"{}"}': (".data", "Expected `object`, got `string`"),
    '{"type":"a","data":[]}': (".data", "Expected `object`, got `array`"),
    '{"type":"a","data":{},"metadata":[]}': (".metadata", "Expected `object | null`"),
    '{"type":"a","data":{},"timestamp":1700000000}': (
        ".timestamp",
        "Expected `string | null`, got `number`: an ISO 8601 date or date-time as text",
    ),
    '{"type":"a","data":{},"timestamp":""}': (".timestamp", "ISO 8601"),
    '{"type":"a","data":{},"timestamp":"yesterday"}': (".timestamp", "ISO 8601"),
    '{"type":"a","data":{},"timestamp":"2026-02-30"}': (".timestamp", "ISO 8601"),
    '{"type":"a","data":{},"timestamp":"0001-01-01T00:00:00+01:00"}': (".timestamp", "year"),
    r'{"type":"a","data":{},"timestamp":"\ud800"}': (".timestamp", "surrogate"),
    '{"type":"a","data":{},"event_id":"7"}': (".event_id", "unknown"),
    '{"type":"a","data":{},"a b":1}': ('["a b"]', "unknown"),
    r'{"type":"a","data":{},"\ud800":1}': (r'["\ud800"]', "unknown"),
    '{"type":"a","data":{"n":9223372036854775808}}': (".data.n", "64 bits"),
    '{"type":"a","data":{"n":[0,{"m":-9223372036854775809}]}}': (".data.n[1].m", "64 bits"),
    '{"type":"a","data":{"n":' + "9" * 100_000 + "}}": (".data.n", "64 bits"),
    '{"type":"a","data":{"n":1e999}}': (".data.n", "double"),
    r'{"type":"a","data":{"a.b":{"\u0000":1}}}': (r'.data["a.b"]["\u0000"]', "NUL"),
    r'{"type":"a","data":{"s":"\ud800"}}': (".data.s", "surrogate"),
    r'{"type":"a","data":{"s":["\udc00\ud800"]}}': (".data.s[0]", "surrogate"),
    r'{"type":"a","data":{"\ud800":1}}': (r'.data["\ud800"]', "surrogate"),
    '{"type":"a","data":{},"metadata":{"n":18446744073709551616}}': (".metadata.n", "64 bits"),
    '{"type":"a","data":' + objects(101) + "}": (".data" + ".a" * 100, "100 levels"),
    '{"type":"a","data":' + arrays(101) + "}": (".data.a" + "[0]" * 99, "100 levels"),
    '{"type":"a","data":' + objects(300) + "}": (".data" + ".a" * 100, "100 levels"),
    '{"type":"a","data":{},"metadata":' + objects(101) + "}": (".metadata" + ".a" * 100, "100 levels"),
    '{"type":"a","data":{},"metadata":' + arrays(101) + "}": (".metadata.a" + "[0]" * 99, "100 levels"),
    '{"type":"a","data":{"s":"' + "x" * MIB + '"}}': ("", "1048576"),
}


def bad_batch() -> bytes:
    """Every bad event, each after a good one."""
    good = json.dumps(event())
    return f'{{"source":"backend","events":[{",".join(f"{good},{bad}" for bad in BAD_EVENTS)}]}}'.encode()


def assert_every_bad_event(errors: list[Json]) -> None:
    paths = [f"events[{2 * number + 1}]{path}" for number, (path, _) in enumerate(BAD_EVENTS.values())]
    assert [error["path"] for error in errors] == paths
    for error, (_, message) in zip(errors, BAD_EVENTS.values(), strict=True):
        assert list(error) == ["path", "message"]
        assert message in error["message"]


def test_every_bad_event_is_listed(rejected_client: httpx.Client) -> None:
    response = rejected_client.post(EVENTS, content=bad_batch(), headers=JSON)
    problem = assert_problem(response, 400, "invalid_batch", r"^events\[1\]: Expected `object`, got `null`")
    assert_every_bad_event(problem["errors"])


@pytest.mark.parametrize("bad", BAD_EVENTS, ids=[f"{number}{bad[:40]}" for number, bad in enumerate(BAD_EVENTS)])
def test_one_bad_event_rejects_the_batch(rejected_client: httpx.Client, bad: str) -> None:
    path, message = BAD_EVENTS[bad]
    content = f'{{"source":"backend","events":[{json.dumps(event())},{bad},{json.dumps(event())}]}}'
    response = rejected_client.post(EVENTS, content=content.encode(), headers=JSON)
    where = f"events[1]{path}: "
    problem = assert_problem(response, 400, "invalid_batch", f"^{re.escape(where)}.*{re.escape(message)}")
    assert [error["path"] for error in problem["errors"]] == [f"events[1]{path}"]


def test_the_first_100_bad_events_are_listed(rejected_client: httpx.Client) -> None:
    sent = {"source": "backend", "events": [event(), *({"type": "a", "data": {}, "x": 1} for _ in range(150))]}
    problem = assert_problem(
        rejected_client.post(EVENTS, json=sent), 400, "invalid_batch", r"^events\[1\]\.x: .*149 more"
    )
    assert [error["path"] for error in problem["errors"]] == [f"events[{index}].x" for index in range(1, 101)]


def test_lenient_handling_lists_the_first_100_bad_events(server: Server, key: Json) -> None:
    sent = {"source": "backend", "events": [event(), *({"type": "a", "data": {}, "x": 1} for _ in range(150))]}
    with server.client(key["key"]) as client:
        response = client.post(EVENTS, json=sent, headers={"Prefer": "handling=lenient"})
    assert response.status_code == 201
    assert [error["path"] for error in response.json()["errors"]] == [f"events[{index}].x" for index in range(1, 101)]


def test_an_event_may_have_1_mib_as_bson(server: Server, make_key: Callable[..., Json], mongo: MongoClient) -> None:
    key = make_key()
    tenant = {"_id.tenant_id": uuid.UUID(key["tenant_id"])}

    def post(padding: int) -> httpx.Response:
        return client.post(EVENTS, json={"source": "backend", "events": [{"type": "a", "data": {"s": "x" * padding}}]})

    with server.client(key["key"]) as client:
        assert post(0).status_code == 201
        (small,) = mongo.sluice.events.aggregate([{"$match": tenant}, {"$project": {"size": {"$bsonSize": "$$ROOT"}}}])
        room = MIB - small["size"]
        assert post(room).status_code == 201
        problem = assert_problem(post(room + 1), 400, "invalid_batch", r"^events\[0\]: 1048577 bytes as BSON")
    assert [error["path"] for error in problem["errors"]] == ["events[0]"]
    assert count_events(mongo, key) == 2


def test_lenient_handling_keeps_the_good(server: Server, make_key: Callable[..., Json], mongo: MongoClient) -> None:
    key = make_key()
    with server.client(key["key"]) as client:
        response = client.post(EVENTS, content=bad_batch(), headers={**JSON, "Prefer": "handling=lenient"})
    assert response.status_code == 201
    receipt = response.json()
    assert list(receipt) == ["success", "events_received", "events", "errors"]
    assert receipt["events_received"] == len(receipt["events"]) == len(BAD_EVENTS)
    assert_every_bad_event(receipt["errors"])
    stored = mongo.sluice.events.find({"_id.tenant_id": uuid.UUID(key["tenant_id"])}, sort=[("_id", 1)])
    assert [str(item["_id"]["id"]) for item in stored] == [item["id"] for item in receipt["events"]]


def test_lenient_handling_of_a_good_batch(server: Server, key: Json) -> None:
    with server.client(key["key"]) as client:
        response = client.post(EVENTS, json=batch(3), headers={"Prefer": "handling=lenient"})
    assert response.status_code == 201
    assert response.headers["preference-applied"] == "handling=lenient"
    assert response.json()["events_received"] == 3
    assert response.json().get("errors", []) == []


def test_lenient_handling_rejects_if_no_event_is_good(rejected_client: httpx.Client) -> None:
    sent = {"source": "backend", "events": [{"type": "a"}, {"type": "b"}]}
    response = rejected_client.post(EVENTS, json=sent, headers={"Prefer": "handling=lenient"})
    problem = assert_problem(response, 400, "invalid_batch", r"^events\[0\]\.data: ")
    assert [error["path"] for error in problem["errors"]] == ["events[0].data", "events[1].data"]
