"""A good batch: its receipt, its ids, and its documents in MongoDB."""

import codecs
import gzip
import json
import re
import uuid
from datetime import UTC, datetime

import httpx

from tests.support.harness import Json, MongoClient, batch, event


def test_receipt_is_as_documented(client: httpx.Client, key: Json) -> None:
    sent = {"source": "backend", "events": [event(type="purchase"), event(type="signup")]}
    response = client.post("/api/v1/events", json=sent)
    assert response.status_code == 201
    assert response.headers["content-type"] == "application/json"
    receipt = response.json()
    assert list(receipt) == ["success", "events_received", "events"]
    assert receipt["success"] is True
    assert receipt["events_received"] == 2
    assert [list(item) for item in receipt["events"]] == [
        ["id", "tenant_id", "source", "event_type", "received_at"]
    ] * 2
    assert [item["event_type"] for item in receipt["events"]] == ["purchase", "signup"]
    assert {item["tenant_id"] for item in receipt["events"]} == {key["tenant_id"]}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", item["received_at"]) for item in receipt["events"])
    assert all(uuid.UUID(item["id"]).version == 7 for item in receipt["events"])


def test_a_byte_order_mark_is_skipped(client: httpx.Client) -> None:
    body = codecs.BOM_UTF8 + json.dumps(batch()).encode()
    for content, encoding in ((body, "identity"), (gzip.compress(body), "gzip")):
        headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
        assert client.post("/api/v1/events", content=content, headers=headers).json()["events_received"] == 1


def test_ids_ascend_and_a_full_batch_is_stored(client: httpx.Client, key: Json, mongo: MongoClient) -> None:
    response = client.post("/api/v1/events/", json=batch(1000))
    ids = [item["id"] for item in response.json()["events"]]
    assert len(ids) == 1000
    assert ids == sorted(ids)
    stored = mongo.sluice.events.find({"_id.tenant_id": uuid.UUID(key["tenant_id"])}, sort=[("_id", 1)])
    assert [(str(item["_id"]["id"]), item["data"]["index"]) for item in stored] == [
        (event_id, index) for index, event_id in enumerate(ids)
    ]


def test_document_in_mongodb(client: httpx.Client, key: Json, mongo: MongoClient) -> None:
    before = datetime.now(UTC)
    full = event(timestamp="2026-03-01T14:00:00.1239+02:00", metadata={"sdk": "1.2"})
    client.post("/api/v1/events", json={"source": "etl", "source_id": "etl-7", "events": [full, event(1)]})
    first, second = mongo.sluice.events.find({"_id.tenant_id": uuid.UUID(key["tenant_id"])}, sort=[("_id", 1)])
    assert first["source"] == second["source"] == "etl"
    assert first["source_id"] == second["source_id"] == "etl-7"
    assert first["event_type"] == "purchase"
    assert first["timestamp"] == datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC)
    assert first["metadata"] == {"sdk": "1.2"}
    assert "metadata" not in second
    assert second["timestamp"] == second["received_at"] == first["received_at"]
    assert abs((first["received_at"] - before).total_seconds()) < 60
    assert (
        mongo.sluice.events.count_documents({"_id.tenant_id": first["_id"]["tenant_id"], "data.currency": "USD"}) == 2
    )
