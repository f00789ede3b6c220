"""`GET /api/v1/rejections`: what is listed, in which order, of whom, and how much."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import grpc
import httpx
import pytest
from sluice.v1 import event_service_pb2 as pb

from server.core.deadline import Deadline
from server.core.errors import Code
from server.core.rejections.model import Rejection
from server.core.rejections.store import KEPT_MS, MAX_KEPT
from storage.client import database, opened
from storage.rejections import TRIM_EVERY, StoredRejections
from tests.support.activity import REJECTIONS, rejections
from tests.support.grpc_client import Stream, channel_to, metadata, stub_of
from tests.support.harness import Json, MongoClient, Server, batch, embedded_url
from tests.support.wire import EVENTS

LENIENT = {"Prefer": "handling=lenient"}
NDJSON = {"Content-Type": "application/x-ndjson"}

BAD_EVENT: Json = {"type": "purchase", "data": [1]}


def test_a_rejection_says_what_and_where(client: httpx.Client, key: Json) -> None:
    before = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=1)
    sent = batch(2, events=[*batch(1)["events"], *[BAD_EVENT] * 7])
    response = client.post(EVENTS, json=sent)
    (found,) = rejections(client, 1)
    problem = response.json()
    time = datetime.fromisoformat(found.pop("time"))
    assert before < time < datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=1)
    assert found == {
        "protocol": "rest",
        "key_id": key["id"],
        "code": "invalid_batch",
        "detail": problem["detail"],
        "errors": problem["errors"][:5],
        "size": len(response.request.content),
    }


def test_each_kind_is_listed_newest_first(server: Server, client: httpx.Client, key: Json) -> None:
    line = b'{"type": "a", "data": {}}\n'
    client.post(EVENTS, json={"source": "web"})
    client.post(EVENTS, content=b"{", headers={"Content-Type": "application/json"})
    client.post(EVENTS, json=batch(), headers={"Content-Type": "text/plain"})
    client.post(EVENTS, json=batch(), headers={"Idempotency-Key": "a b"})
    client.post(EVENTS, json=batch(2, events=[BAD_EVENT, *batch()["events"]]), headers=LENIENT)
    client.post(f"{EVENTS}?source=web", content=line + b'{"type": "a"}\n' + line + b"x\n", headers=NDJSON)
    client.post(f"{EVENTS}?source=web&kind=x", content=line, headers=NDJSON)
    with channel_to(server.grpc) as channel, pytest.raises(grpc.RpcError):
        stub_of(channel).IngestEvents(pb.IngestEventsRequest(), metadata=metadata(key["key"]))
    found = rejections(client, 8)
    assert [(item["protocol"], item["code"], [error["path"] for error in item["errors"]]) for item in found] == [
        ("grpc", "invalid_batch", []),
        ("rest", "invalid_parameter", []),
        ("rest", "invalid_batch", ["items[1].data", "items[3]"]),
        ("rest", "invalid_batch", ["events[0].data"]),
        ("rest", "invalid_header", []),
        ("rest", "unsupported_media_type", []),
        ("rest", "malformed_json", []),
        ("rest", "invalid_batch", []),
    ]
    assert found[2]["size"] == 2 * len(line) + 16
    assert found[4]["size"] is None
    assert found == sorted(found, key=lambda item: item["time"], reverse=True)
    assert rejections(client, 3, limit="3") == found[:3]


def test_a_key_that_is_known_but_not_admitted_is_listed(server: Server, key: Json) -> None:
    """A key without the scope, one from another domain, and one that has used up its rate limit."""
    reader = server.create_key(key["tenant"], "--scope", "events:read", "--rate-limit", "0")
    web = server.create_key(key["tenant"], "--allow-domain", "example.com", "--rate-limit", "1")
    with server.client(reader["key"]) as reading, server.client(web["key"]) as writing:
        assert reading.post(EVENTS, json=batch()).status_code == 403
        assert writing.post(EVENTS, json=batch(), headers={"Origin": "https://evil.test"}).status_code == 403
        assert writing.post(EVENTS, json=batch()).status_code == 201
        assert writing.post(EVENTS, json=batch()).status_code == 429
        found = rejections(reading, 3)
    assert [(item["key_id"], item["code"]) for item in found] == [
        (web["id"], "rate_limited"),
        (web["id"], "domain_not_allowed"),
        (reader["id"], "insufficient_scope"),
    ]


def test_what_is_wrong_with_a_read_or_has_no_key_is_not_listed(server: Server, client: httpx.Client) -> None:
    client.get(EVENTS, params={"limit": "x"})
    with server.client(f"slc_{uuid.uuid4().hex * 2}") as stranger:
        assert stranger.post(EVENTS, json=batch()).status_code == 401
        assert stranger.get(REJECTIONS).status_code == 401
    client.post(EVENTS, json={})
    (found,) = rejections(client, 1)
    assert found["detail"] == "source: Object missing required field"


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "since=2026-01-01"])
def test_a_bad_query_is_named(client: httpx.Client, query: str) -> None:
    response = client.get(f"{REJECTIONS}?{query}")
    assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")
    assert response.json()["detail"].startswith(query.partition("=")[0])


def test_it_needs_the_scope_for_reads(server: Server, key: Json) -> None:
    writer = server.create_key(key["tenant"], "--scope", "events:write")
    with server.client(writer["key"]) as client:
        assert client.get(REJECTIONS).status_code == 403


def test_a_burst_is_listed(server: Server, client: httpx.Client, key: Json) -> None:
    with channel_to(server.grpc) as channel, Stream(channel, key["key"]) as stream:
        for sequence in range(MAX_KEPT + 200):
            stream.send(sequence, pb.EventBatch())
        stream.half_close()
        assert sum(response.HasField("error") for response in stream.call) == MAX_KEPT + 200
    found = rejections(client, MAX_KEPT)
    assert {(item["protocol"], item["code"], item["key_id"]) for item in found} == {
        ("grpc", "invalid_batch", key["id"])
    }


def of(tenant_id: uuid.UUID, number: int, age_ms: int = 0) -> Rejection:
    """A rejection for the store."""
    now_ms = int(datetime.now(UTC).timestamp() * 1_000)
    return Rejection(
        tenant_id=tenant_id,
        id=number,
        time_ms=now_ms - age_ms,
        protocol="rest",
        key_id="key",
        code=Code.INVALID_BATCH,
        detail=str(number),
        errors=(),
        size=None,
    )


def test_few_are_kept_and_for_a_day(server: Server, mongo: MongoClient) -> None:
    mine, other = uuid.uuid4(), uuid.uuid4()
    stored = mongo.sluice.rejections

    async def scenario() -> None:
        async with opened(embedded_url(server.data_dir), "pymongo") as client:
            store = StoredRejections(database(client, "sluice"))
            await store.insert([of(other, number) for number in range(10)], Deadline())
            for first in range(0, 2 * MAX_KEPT, TRIM_EVERY):
                rejections = [of(mine, first + number, 2 * MAX_KEPT - first) for number in range(TRIM_EVERY)]
                await store.insert(rejections, Deadline())
                await store.insert(rejections, Deadline())  # again, since the response was lost
                assert stored.count_documents({"_id.tenant_id": mine}) <= MAX_KEPT
            await store.insert([of(mine, 5_000, KEPT_MS + 1_000)], Deadline())
            newest = await store.newest(mine, MAX_KEPT, Deadline())
            assert [rejection.id for rejection in newest] == list(range(2 * MAX_KEPT - 1, MAX_KEPT - 1, -1))
            assert len(await store.newest(other, MAX_KEPT, Deadline())) == 10
            await store.insert([of(other, 5_000, KEPT_MS + 1_000)], Deadline())
            assert len(await store.newest(other, MAX_KEPT, Deadline())) == 10  # it has expired

    asyncio.run(scenario())
    (expiry,) = [index for index in stored.list_indexes() if "expireAfterSeconds" in index]
    assert (dict(expiry["key"]), expiry["expireAfterSeconds"]) == ({"expires_at": 1}, 0)
    one = stored.find_one({"_id.tenant_id": other})
    assert one is not None
    assert one["expires_at"] - one["_id"]["time"] == timedelta(days=1)
