"""Events that an operator or an analyst changed or inserted read back, and do no harm to the others of a list."""

import json
import uuid
from typing import Any

import bson
import httpx
import pytest

from tests.support.harness import Json, MongoClient, batch
from tests.support.reading import EVENTS

OID = bson.ObjectId("6b076d274a83ef53d2db0857")
SHOWN_OID = {"$oid": str(OID)}

CHANGES: dict[str, tuple[Json, Json]] = {
    "ObjectId in data": ({"$set": {"data.reviewer": OID}}, {"data": {"reviewer": SHOWN_OID}}),
    "Decimal128": ({"$set": {"data.x": bson.Decimal128("1.5")}}, {"data": {"x": {"$numberDecimal": "1.5"}}}),
    "date in data": ({"$currentDate": {"data.x": True}}, {}),
    "NaN": ({"$set": {"data.x": float("nan")}}, {"data": {"x": {"$numberDouble": "NaN"}}}),
    "MinKey": ({"$set": {"metadata": {"x": bson.MinKey()}}}, {"metadata": {"x": {"$minKey": 1}}}),
    "binary": ({"$set": {"data.x": b"a"}}, {"data": {"x": {"$binary": {"base64": "YQ==", "subType": "00"}}}}),
    "regex": (
        {"$set": {"data.x": bson.Regex("a", "i")}},
        {"data": {"x": {"$regularExpression": {"pattern": "a", "options": "i"}}}},
    ),
    "reference": ({"$set": {"data.x": bson.DBRef("c", OID)}}, {"data": {"x": {"$ref": "c", "$id": SHOWN_OID}}}),
    "no timestamp": ({"$unset": {"timestamp": ""}}, {"timestamp": None}),
    "no received_at": ({"$unset": {"received_at": ""}}, {"received_at": None}),
    "no event_type": ({"$unset": {"event_type": ""}}, {"event_type": None}),
    "no source": ({"$unset": {"source": ""}}, {"source": None}),
    "no data": ({"$unset": {"data": ""}}, {}),
    "timestamp as text": ({"$set": {"timestamp": "noon"}}, {"timestamp": "noon"}),
    "source as ObjectId": ({"$set": {"source": OID}}, {"source": SHOWN_OID}),
    "data as a list": ({"$set": {"data": [OID]}}, {"data": [SHOWN_OID]}),
    "another field": ({"$set": {"reviewed": OID}}, {}),
}


def merged(event: Json, change: Json) -> Json:
    """The event with the change in it."""
    both = dict(event)
    for field, value in change.items():
        inside = isinstance(value, dict) and field == "data"
        both[field] = {**event[field], **value} if inside else value
    return both


@pytest.mark.parametrize(("update", "change"), CHANGES.values(), ids=CHANGES)
def test_a_changed_event_reads_back_and_the_others_are_unharmed(
    client: httpx.Client, mongo: MongoClient, update: Json, change: Json
) -> None:
    client.post(EVENTS, json=batch(9))
    before = client.get(EVENTS).json()
    changed = uuid.UUID(before[4]["id"])
    assert mongo.sluice.events.update_one({"_id.id": changed}, update).modified_count == 1
    response = client.get(EVENTS)
    assert response.status_code == 200
    after = response.json()
    one = client.get(f"{EVENTS}/{changed}")
    assert (one.status_code, one.json()) == (200, after[4])
    expected = merged(before[4], change)
    if "$currentDate" in update:
        expected["data"]["x"] = {"$date": after[4]["data"]["x"]["$date"]}
    if update == CHANGES["no data"][0]:
        expected["data"] = None
    assert after == [*before[:4], expected, *before[5:]]


IDS: dict[str, tuple[Any, Any]] = {
    "ObjectId": (OID, SHOWN_OID),
    "text": ("an-id", "an-id"),
    "number": (7, 7),
    "object": ({"a": 1}, {"a": 1}),
    "date": (bson.datetime_ms.DatetimeMS(0), {"$date": "1970-01-01T00:00:00Z"}),
}


def test_inserted_events_with_ids_of_any_type_are_listed_once(
    client: httpx.Client, key: Json, mongo: MongoClient
) -> None:
    client.post(EVENTS, json=batch(9))
    before = client.get(EVENTS).json()
    tenant_id = uuid.UUID(key["tenant_id"])
    own = [{"_id": {"tenant_id": tenant_id, "id": value}} for value, _ in IDS.values()]
    mongo.sluice.events.insert_many(own)
    try:
        for limit in (1_000, 14):
            listed = client.get(EVENTS, params={"limit": limit}).json()
            assert len(listed) == len(before) + len(IDS)
            assert [item for item in listed if item in before] == before
            shown = [json.dumps(item["id"]) for item in listed if item not in before]
            assert len(set(shown)) == len(IDS)
            assert json.dumps(SHOWN_OID) in shown
    finally:
        mongo.sluice.events.delete_many({"_id.tenant_id": tenant_id})
