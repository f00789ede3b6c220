"""The metrics of a running server: every request is counted, once, by what became of it, over both APIs."""

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import grpc
import httpx
import pytest
from sluice.v1 import event_service_pb2 as pb

from server.core.events.ids import Seed, with_seed
from server.core.times import to_milliseconds
from tests.support.grpc_client import Stream, code_of, good_batch, metadata, raw_unary, stub_of
from tests.support.harness import Json, MongoClient, Server, batch, event, wait_until
from tests.support.idempotency import PROTOCOLS, TenantClient, expect_receipt, new_key
from tests.support.metrics import Scrape, changes, received, scrape, scrape_when_idle
from tests.support.wire import EVENTS, talk

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def before(server: Server) -> Scrape:
    return scrape_when_idle(server)


def test_a_batch_over_rest(server: Server, client: httpx.Client, before: Scrape) -> None:
    assert client.post(EVENTS, json=batch(3)).status_code == 201
    assert changes(server, before) == {**received("rest", 1, 3), "requests_stored rest": 1, "events_stored rest": 3}


def test_a_batch_over_grpc(server: Server, key: Json, channel: grpc.Channel, before: Scrape) -> None:
    stub_of(channel).IngestEvents(pb.IngestEventsRequest(batch=good_batch(range(3))), metadata=metadata(key["key"]))
    assert changes(server, before) == {**received("grpc", 1, 3), "requests_stored grpc": 1, "events_stored grpc": 3}


def test_each_batch_of_a_stream(server: Server, key: Json, channel: grpc.Channel, before: Scrape) -> None:
    with Stream(channel, key["key"]) as stream:
        for sequence, count in enumerate((2, 3)):
            stream.send(sequence, good_batch(range(count)))
        stream.send(2, pb.EventBatch(source="x"))
        stream.half_close()
        assert len(list(stream.call)) == 3
    assert changes(server, before) == {
        **received("grpc", 3, 5),
        "requests_stored grpc": 2,
        "events_stored grpc": 5,
        "requests_refused invalid_batch grpc": 1,
    }


def test_a_lenient_batch(server: Server, client: httpx.Client, before: Scrape) -> None:
    events = [event(1), {"type": "no data"}, event(2)]
    response = client.post(EVENTS, json={"source": "s", "events": events}, headers={"Prefer": "handling=lenient"})
    assert response.status_code == 201
    assert changes(server, before) == {
        **received("rest", 1, 3),
        "requests_stored rest": 1,
        "events_stored rest": 2,
        "events_refused invalid_batch rest": 1,
    }


def test_a_strict_batch_with_a_bad_event(server: Server, client: httpx.Client, before: Scrape) -> None:
    events = [event(1), {"type": "no data"}]
    assert client.post(EVENTS, json={"source": "s", "events": events}).status_code == 400
    assert changes(server, before) == {
        **received("rest", 1, 2),
        "requests_refused invalid_batch rest": 1,
        "events_refused invalid_batch rest": 2,
    }


def test_a_replay(server: Server, client: httpx.Client, before: Scrape) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    for _ in range(2):
        assert client.post(EVENTS, json=batch(4), headers=headers).status_code == 201
    assert client.post(EVENTS, json=batch(5), headers=headers).status_code == 422
    assert changes(server, before) == {
        **received("rest", 3, 13),
        "requests_stored rest": 1,
        "events_stored rest": 4,
        "requests_replayed rest": 1,
        "events_replayed rest": 4,
        "requests_refused idempotency_conflict rest": 1,
        "events_refused idempotency_conflict rest": 5,
    }


def test_a_raw_body(server: Server, client: httpx.Client, before: Scrape) -> None:
    lines = [json.dumps(event(index)) for index in range(1_500)] + ["no JSON"]
    response = client.post(
        EVENTS, params={"source": "raw"}, content="\n".join(lines), headers={"Content-Type": "application/x-ndjson"}
    )
    assert response.json()["events_received"] == 1_500
    assert changes(server, before) == {
        **received("rest", 1, 1_501),
        "requests_stored rest": 1,
        "events_stored rest": 1_500,
        "events_refused invalid_batch rest": 1,
    }


Send = Callable[[Server, httpx.Client], Any]

REFUSED: dict[str, tuple[str, Send]] = {
    "no key": (
        "unauthenticated",
        lambda server, _: httpx.post(server.url + EVENTS, json=batch(), timeout=30, trust_env=False),
    ),
    "two keys": (
        "unauthenticated",
        lambda _, client: client.post(EVENTS, json=batch(), headers={"Authorization": "Bearer slc_other"}),
    ),
    "no JSON": ("malformed_json", lambda _, client: client.post(EVENTS, content=b"{", headers=JSON)),
    "no route": ("not_found", lambda _, client: client.get("/nowhere")),
    "no such file of the schema": ("not_found", lambda _, client: client.get("/schema/files/none")),
    "no such file of the schema, without its body": ("not_found", lambda _, client: client.head("/schema/files/none")),
    "no such method of a route": ("method_not_allowed", lambda _, client: client.delete(EVENTS)),
    "no such method of a handler": ("method_not_allowed", lambda _, client: client.post("/health/live")),
    "no HTTP": ("malformed_request", lambda server, _: talk(server, b"no HTTP at all\r\n\r\n")),
    "a header over the limit": (
        "headers_too_large",
        lambda server, _: talk(server, b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 70_000 + b"\r\n\r\n"),
    ),
}


@pytest.mark.parametrize(("code", "send"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_before_its_batch_is_decoded(
    server: Server, client: httpx.Client, before: Scrape, code: str, send: Send
) -> None:
    send(server, client)
    assert changes(server, before) == {**received("rest", 1, 0), f"requests_refused {code} rest": 1}


def test_a_grpc_method_that_does_not_exist(server: Server, channel: grpc.Channel, before: Scrape) -> None:
    for method in ("/sluice.v1.EventService/Nothing", "/nothing.v1.Nothing/Nothing", "/x"):
        with pytest.raises(grpc.RpcError) as caught:
            raw_unary(channel, method)(b"", timeout=10)
        assert code_of(caught.value) is grpc.StatusCode.UNIMPLEMENTED
    assert changes(server, before) == {**received("grpc", 3, 0), "requests_refused not_found grpc": 3}


def test_a_stream_that_is_not_opened(server: Server, channel: grpc.Channel, before: Scrape) -> None:
    with Stream(channel, "slc_wrong") as stream, pytest.raises(grpc.RpcError):
        list(stream.call)
    assert changes(server, before) == {**received("grpc", 1, 0), "requests_refused unauthenticated grpc": 1}


def test_reads(server: Server, key: Json, client: httpx.Client, channel: grpc.Channel, before: Scrape) -> None:
    assert client.get(EVENTS).status_code == 200
    assert client.head(EVENTS).status_code == 200
    assert client.get(EVENTS, params={"limit": "none"}).status_code == 400
    assert client.get(f"{EVENTS}/{uuid.uuid4()}").status_code == 404
    assert client.get("/api/v1/event-types").status_code == 200
    assert client.get(EVENTS, headers={"Accept": "application/x-ndjson"}).status_code == 200
    stub = stub_of(channel)
    stub.ListEvents(pb.ListEventsRequest(), metadata=metadata(key["key"]))
    with pytest.raises(grpc.RpcError):
        stub.ListEvents(pb.ListEventsRequest(page_token="x"), metadata=metadata(key["key"]))
    assert changes(server, before) == {
        "reads_received rest": 6,
        "reads_served rest": 4,
        "reads_refused invalid_parameter rest": 1,
        "reads_refused not_found rest": 1,
        "reads_received grpc": 2,
        "reads_served grpc": 1,
        "reads_refused invalid_parameter grpc": 1,
    }


def test_health_and_the_schema_are_no_requests(server: Server, client: httpx.Client, before: Scrape) -> None:
    for path in ("/health/live", "/health/ready", "/schema/openapi.json"):
        assert client.get(path).status_code == 200
    assert changes(server, before) == {}


@pytest.fixture
def follower(client: httpx.Client) -> Iterator[None]:
    with client.stream("GET", f"{EVENTS}/tail") as response:
        assert response.status_code == 200
        yield


@pytest.mark.usefixtures("follower")
def test_followers_and_streams(server: Server, key: Json, channel: grpc.Channel) -> None:
    with Stream(channel, key["key"]) as stream:
        stream.send(1, good_batch())
        next(iter(stream.call))

        def both_are_open() -> bool:
            now = scrape(server.metrics)
            used = {name: now.total("sluice_capacity_used", resource=name) for name in ("streams", "followers")}
            return used == {"streams": 1, "followers": 1} and now.total("sluice_reads_in_flight") >= 1

        wait_until(both_are_open, "levels are sampled")


def test_durations(server: Server, client: httpx.Client, before: Scrape) -> None:
    assert client.post(EVENTS, json=batch(3)).status_code == 201
    now = scrape(server.metrics)
    for name in ("request", "admit", "wait", "insert"):
        count, seconds = (
            now.total(f"sluice_{name}_duration_seconds_{kind}", protocol="rest")
            - before.total(f"sluice_{name}_duration_seconds_{kind}", protocol="rest")
            for kind in ("count", "sum")
        )
        assert count == 1
        assert 0 <= seconds < 10


def test_levels(server: Server) -> None:
    def are_measured() -> bool:
        now = scrape(server.metrics)
        return now.total("sluice_database_writable") == 1 and now.total("sluice_event_loop_lag_seconds_count") > 0

    wait_until(are_measured, "the database takes writes, and loops were timed")
    now = scrape(server.metrics)
    assert now.total("sluice_workers") == now.total("sluice_workers_configured") == 2
    assert now.total("sluice_capacity_limit", resource="events") == 100_000
    assert now.total("sluice_worker_resident_memory_bytes") > 50_000_000
    assert now.total("sluice_worker_cpu_seconds_total") > 0
    assert now.total("sluice_event_loop_lag_seconds_count") > 0
    assert now.total("sluice_build_info") == 1


def test_no_tenant_and_no_key_in_labels(server: Server, key: Json, client: httpx.Client) -> None:
    assert client.post(EVENTS, json=batch(source="secret-source")).status_code == 201
    text = httpx.get(server.metrics, timeout=30, trust_env=False).text
    for canary in (key["key"], key["id"], key["tenant"], key["tenant_id"], "secret-source"):
        assert canary not in text
    names = {name for _, labels in scrape(server.metrics).numbers for name, _ in labels}
    assert names <= {"protocol", "code", "resource", "le", "version", "python", "driver", "state"}


@pytest.mark.parametrize("api", ["rest", "grpc"])
@pytest.mark.parametrize(("age_s", "is_late"), [(0, False), (100, True)])
def test_events_that_a_retry_completes(
    server: Server, key: Json, mongo: MongoClient, api: str, age_s: int, is_late: bool
) -> None:
    """A request stored 2 of 3 events `age_s` ago, and was killed. The retry stores the third."""
    send, name, sent = PROTOCOLS["unary" if api == "grpc" else "REST"], new_key(), batch(3)
    with TenantClient(server, key) as tenant:
        first = expect_receipt(send(tenant, sent, name), replayed=False)
        own = {"tenant_id": uuid.UUID(key["tenant_id"])}
        record = mongo.sluice.claims.find_one(own)
        assert record is not None
        earlier = record["received_at"] - timedelta(seconds=age_s)
        mongo.sluice.claims.update_one(own, {"$set": {"received_at": earlier}})
        stored = mongo.sluice.events.find({"_id.tenant_id": own["tenant_id"]}, sort=[("_id", 1)]).to_list()
        assert len(stored) == len(first.ids)
        mongo.sluice.events.delete_many({"_id.tenant_id": own["tenant_id"]})
        ids = with_seed(first.ids, Seed(to_milliseconds(earlier), record["random"]))
        for document, event_id in zip(stored[:2], ids, strict=False):
            own_id = {**own, "id": uuid.UUID(event_id)}
            mongo.sluice.events.insert_one({**document, "_id": own_id, "received_at": earlier})
        before = scrape_when_idle(server)
        assert expect_receipt(send(tenant, sent, name), replayed=True).ids == ids
    expected = {f"events_completed_late {api}": 1} if is_late else {}
    found = changes(server, before)
    assert {name: count for name, count in found.items() if "late" in name} == expected
    assert (found[f"events_stored {api}"], found[f"events_replayed {api}"]) == (1, 2)
