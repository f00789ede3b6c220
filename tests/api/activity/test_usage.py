"""`GET /api/v1/usage`: requests and events by outcome, by minute and hour, over both protocols and all workers."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID, uuid4

import httpx
import pytest
from sluice.v1 import event_service_pb2 as pb

from server.core.deadline import Deadline
from server.core.usage.model import STEP_MS, Counts, Span, UsageCell
from storage.client import database, opened
from storage.usage import StoredUsage
from tests.support.activity import USAGE, listed, usage_sums
from tests.support.grpc_client import Stream, channel_to, metadata, stub_of
from tests.support.harness import Json, MongoClient, Server, batch, embedded_url
from tests.support.wire import EVENTS

BAD_EVENT: Json = {"type": "purchase", "data": [1]}


def test_requests_and_events_are_counted_by_outcome(server: Server, client: httpx.Client, key: Json) -> None:
    for _ in range(2):
        client.post(EVENTS, json=batch(3), headers={"Idempotency-Key": "one"})
    client.post(EVENTS, json=batch(4), headers={"Idempotency-Key": "one"})  # a conflict
    client.post(EVENTS, json=batch(2, events=[BAD_EVENT, *batch(5)["events"]]), headers={"Prefer": "handling=lenient"})
    client.post(EVENTS, content=b"{", headers={"Content-Type": "application/json"})
    lines = b'{"type": "a", "data": {}}\n' * 7 + b"x\n"
    client.post(f"{EVENTS}?source=web", content=lines, headers={"Content-Type": "application/x-ndjson"})
    good = pb.EventBatch(source="web", events=[pb.Event(type="a", data_json=b"{}")] * 2)
    with channel_to(server.grpc) as channel:
        stub_of(channel).IngestEvents(pb.IngestEventsRequest(batch=good), metadata=metadata(key["key"]))
        with Stream(channel, key["key"]) as stream:
            for sequence, sent in enumerate((good, pb.EventBatch(), good)):
                stream.send(sequence, sent)
            stream.half_close()
            assert len(list(stream.call)) == 3
    client.get(EVENTS)  # reads are not counted
    for step in ("minute", "hour"):
        requests, events, codes = usage_sums(client, 10, step=step)
        assert requests == {"stored": 6, "replayed": 1, "refused": 3}
        assert events == {"stored": 3 + 5 + 7 + 3 * 2, "replayed": 3, "refused": 4 + 1 + 1}
        assert codes == {"idempotency_conflict": 1, "malformed_json": 1, "invalid_batch": 1}


def test_a_request_that_is_not_admitted_is_counted(server: Server, key: Json) -> None:
    limited = server.create_key(key["tenant"], "--rate-limit", "1")
    with server.client(limited["key"]) as client:
        for _ in range(3):
            client.post(EVENTS, json=batch())
        requests, events, codes = usage_sums(client, 3)
    assert (requests, events, codes) == ({"stored": 1, "refused": 2}, {"stored": 1}, {"rate_limited": 2})


def test_each_step_is_shown_oldest_first(client: httpx.Client) -> None:
    client.post(EVENTS, json=batch())
    usage_sums(client, 1)
    for query, step, counts in (
        ({}, 60, (60, 61)),  # an hour has parts of 61 minutes, unless it begins with a minute
        ({"step": "hour"}, 3_600, (24, 25)),
        ({"since": "2000-01-01"}, 60, (2_880,)),
    ):
        items = listed(client, USAGE, **query)
        times = [datetime.fromisoformat(item["time"]) for item in items]
        assert len(items) in counts
        assert {later - earlier for earlier, later in pairwise(times)} == {timedelta(seconds=step)}
        assert all(time.replace(tzinfo=UTC).timestamp() % step == 0 for time in times)
        assert items[0]["requests"] == {"stored": 0, "replayed": 0, "refused": 0, "unknown": 0}
    assert sum(item["events"]["stored"] for item in listed(client, USAGE, since="2000-01-01", step="hour")) == 1
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert listed(client, USAGE, until="2000-01-01") == listed(client, USAGE, since=tomorrow) == []
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    assert not any(item["requests"]["stored"] for item in listed(client, USAGE, until=hour_ago))


@pytest.mark.parametrize("query", ["step=day", "since=yesterday", "until=x", "limit=3"])
def test_a_bad_query_is_named(client: httpx.Client, query: str) -> None:
    response = client.get(f"{USAGE}?{query}")
    assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")
    assert response.json()["detail"].startswith(query.partition("=")[0])


def test_it_needs_the_scope_for_reads(server: Server, key: Json) -> None:
    writer = server.create_key(key["tenant"], "--scope", "events:write")
    with server.client(writer["key"]) as client:
        assert client.get(USAGE).status_code == 403


def cell(tenant_id: UUID, start_ms: int, part: int, requests: int) -> UsageCell:
    counts = Counts(Counter(stored=requests, rate_limited=1), Counter(stored=10 * requests))
    return UsageCell(tenant_id=tenant_id, step="minute", start_ms=start_ms, part=UUID(int=part), counts=counts)


def test_the_parts_of_all_workers_are_added_up(server: Server, mongo: MongoClient) -> None:
    mine, other = uuid4(), uuid4()
    minute = STEP_MS["minute"]
    start = int(datetime.now(UTC).timestamp() * 1_000) // minute * minute

    async def scenario() -> None:
        async with opened(embedded_url(server.data_dir), "pymongo") as client:
            store = StoredUsage(database(client, "sluice"))
            cells = [cell(mine, start, 1, 3), cell(mine, start, 2, 4), cell(mine, start + minute, 1, 5)]
            await store.save([cell(mine, start, 1, 2), *cells[1:], cell(other, start, 1, 100)], Deadline())
            await store.save(cells, Deadline())  # what is saved again counts once
            found = await store.find(mine, Span("minute", start, start + 2 * minute), Deadline())
            assert {at: +counts.requests for at, counts in found.items()} == {
                start: {"stored": 7, "rate_limited": 2},
                start + minute: {"stored": 5, "rate_limited": 1},
            }
            assert found[start].events["stored"] == 70
            assert list(await store.find(mine, Span("minute", start, start + minute), Deadline())) == [start]
            assert await store.find(mine, Span("hour", start, start + 2 * minute), Deadline()) == {}
            assert await store.find(mine, Span("minute", start, start), Deadline()) == {}

    asyncio.run(scenario())
    (left,) = mongo.sluice.usage.find({"_id.tenant_id": other})
    assert left["expires_at"] - left["_id"]["start"] == timedelta(days=2, minutes=1)
