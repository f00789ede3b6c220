"""Volumes are counted once for each minute that is complete, and go with the tenant."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from bson.binary import Binary

from server.core.errors import NotFound
from server.core.rules.measure import (
    FreshnessMeasurement,
    MissingFieldMeasurement,
    ThresholdMeasurement,
    VolumeMeasurement,
)
from storage import volumes
from tests.api.measuring.conftest import Measurer
from tests.support.brute_force import moment
from tests.support.harness import MongoClient
from tests.support.measuring import END_MS, MINUTE_MS, new_tenant, rule_of, store

ANY = {"event_type": "view", "window_minutes": 10}
COUNT = rule_of("threshold", {**ANY, "field": "count", "operator": ">", "value": 0})
MISSING = rule_of("missing_field", {**ANY, "required_fields": ["a"]})
FRESH = rule_of("freshness", {"event_type": "view", "max_age_minutes": 10})


def minute_and_rows(mongo: MongoClient, tenant: UUID) -> tuple[Any, list[Any]]:
    """The marker, and the counts in order."""
    query = {"_id.tenant_id": Binary.from_uuid(tenant)}
    marker, *rows = mongo.sluice.volumes.find(query, sort=[("_id", 1)])
    return marker, rows


def events_of(found: Mapping[UUID, Any]) -> list[int]:
    return [measured.events for measured in found.values()]


def test_what_is_kept(measurer: Measurer, mongo: MongoClient) -> None:
    tenant = new_tenant(mongo)
    ages = [1, 2, MINUTE_MS, MINUTE_MS + 1, 11 * MINUTE_MS]
    store(mongo, tenant, [(age, "web", "view", {}) for age in ages])
    store(mongo, tenant, [(1, "app", "view", {}), (1, "web", "order", {})])
    assert events_of(measurer.measure(tenant, [COUNT])) == [5]
    marker, rows = minute_and_rows(mongo, tenant)
    assert marker["spans"] == [[moment(END_MS - 10 * MINUTE_MS), moment(END_MS)]]
    kept = [(row["_id"]["minute"], row["_id"]["source"], row["_id"]["event_type"], row["n"]) for row in rows]
    last = moment(END_MS - MINUTE_MS)
    assert kept == [
        (last - timedelta(minutes=1), "web", "view", 1),
        (last, "app", "view", 1),
        (last, "web", "order", 1),
        (last, "web", "view", 3),
    ]
    assert {row["expires_at"] - row["_id"]["minute"] for row in rows} == {timedelta(days=92)}


def test_a_minute_is_counted_once(measurer: Measurer, mongo: MongoClient) -> None:
    tenant = new_tenant(mongo)
    store(mongo, tenant, [(5 * MINUTE_MS, "web", "view", {})])
    assert events_of(measurer.measure(tenant, [COUNT, MISSING])) == [1, 1]
    late = store(mongo, tenant, [(4 * MINUTE_MS, "web", "view", {})])  # as a late retry completes a batch
    before = store(mongo, tenant, [(11 * MINUTE_MS, "web", "view", {})])
    found = measurer.measure(tenant, [COUNT, MISSING])
    assert events_of(found) == [1, 1]
    counted, read = found.values()
    assert isinstance(counted, ThresholdMeasurement)
    assert isinstance(read, MissingFieldMeasurement)
    assert late[0].id in read.event_ids
    assert events_of(measurer.measure(tenant, [COUNT], END_MS - MINUTE_MS)) == [2]
    assert before[0].id < late[0].id
    marker, _ = minute_and_rows(mongo, tenant)
    assert marker["spans"] == [[moment(END_MS - 11 * MINUTE_MS), moment(END_MS)]]


def test_a_gap_is_left_out(measurer: Measurer, mongo: MongoClient) -> None:
    tenant = new_tenant(mongo)
    for age in (30, 0):
        measurer.measure(tenant, [COUNT], END_MS - age * MINUTE_MS)
    spans = [
        [moment(END_MS - start * MINUTE_MS), moment(END_MS - end * MINUTE_MS)] for start, end in ((40, 30), (10, 0))
    ]
    assert minute_and_rows(mongo, tenant) == ({"_id": minute_and_rows(mongo, tenant)[0]["_id"], "spans": spans}, [])


def test_an_event_that_was_removed(measurer: Measurer, mongo: MongoClient) -> None:
    tenant = new_tenant(mongo)
    store(mongo, tenant, [(5 * MINUTE_MS + 1, "web", "view", {})])
    measurer.measure(tenant, [FRESH])
    mongo.sluice.events.delete_many({"_id.tenant_id": Binary.from_uuid(tenant)})
    (found,) = measurer.measure(tenant, [FRESH]).values()
    assert found == FreshnessMeasurement(events=1, newest_ms=END_MS - 6 * MINUTE_MS, event_ids=())


def test_a_comparison_window_is_counted_step_by_step(
    measurer: Measurer, mongo: MongoClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt is cut off early, and says so. The next one goes on where it ended."""
    monkeypatch.setattr(volumes, "MAX_MINUTES", 60)
    tenant = new_tenant(mongo)
    store(mongo, tenant, [(hour * 60 * MINUTE_MS + 1, "web", "view", {}) for hour in range(6 * 24)])
    rule = rule_of(
        "volume",
        {
            "event_type": "view",
            "threshold_percent": 50,
            "current_window_minutes": 60,
            "comparison_window_hours": 5 * 24,
        },
    )
    attempts, timeout_s = 1, 0.25
    while not (found := measurer.measure(tenant, [rule], timeout_s=timeout_s)):
        attempts, timeout_s = attempts + 1, 2 * timeout_s  # on a busy machine, a short attempt comes hardly further
    assert found[rule.id] == VolumeMeasurement(
        events=1,
        events_before=5 * 24,
        first_seen_ms=END_MS - (6 * 24 - 1) * 60 * MINUTE_MS - 1,
        event_ids=(first_of(mongo, tenant, END_MS - 1),),
    )
    assert attempts > 1


def first_of(mongo: MongoClient, tenant: UUID, received_at_ms: int) -> str:
    """The id of an event that was received then."""
    found = mongo.sluice.events.find_one(
        {"_id.tenant_id": Binary.from_uuid(tenant), "received_at": moment(received_at_ms)}
    )
    assert found is not None
    return str(found["_id"]["id"])


def test_a_marker_that_an_operator_has_spoiled(measurer: Measurer, mongo: MongoClient) -> None:
    """What it stands for is counted again."""
    tenant = new_tenant(mongo)
    store(mongo, tenant, [(1, "web", "view", {})])
    measurer.measure(tenant, [COUNT])
    query = {"_id.tenant_id": Binary.from_uuid(tenant), "_id.minute": None}
    mongo.sluice.volumes.update_one(query, {"$set": {"spans": "all"}})
    assert events_of(measurer.measure(tenant, [COUNT])) == [1]
    marker, _ = minute_and_rows(mongo, tenant)
    assert marker["spans"] == [[moment(END_MS - 10 * MINUTE_MS), moment(END_MS)]]


def test_many_counts_in_a_minute(measurer: Measurer, mongo: MongoClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volumes, "FETCHED_TOGETHER", 3)
    monkeypatch.setattr(volumes, "SAVED_TOGETHER", 4)
    tenant = new_tenant(mongo)
    store(mongo, tenant, [(1, "web", f"type {number}", {}) for number in range(10)])
    measurer.measure(tenant, [COUNT])
    assert len(minute_and_rows(mongo, tenant)[1]) == 10


def test_events_with_ids_of_another_time(measurer: Measurer, mongo: MongoClient) -> None:
    tenant = new_tenant(mongo)
    (event,) = store(mongo, tenant, [(1, "web", "view", {})])
    mongo.sluice.events.update_one(
        {"_id": {"tenant_id": Binary.from_uuid(tenant), "id": Binary.from_uuid(UUID(event.id))}},
        {"$set": {"received_at": moment(END_MS - 60 * MINUTE_MS)}},
    )
    assert events_of(measurer.measure(tenant, [COUNT, MISSING])) == [0, 0]


def test_nothing_is_kept_of_a_deleted_tenant(measurer: Measurer, mongo: MongoClient) -> None:
    tenant = uuid4()
    store(mongo, tenant, [(1, "web", "view", {})])
    with pytest.raises(NotFound):
        measurer.measure(tenant, [COUNT])
    assert mongo.sluice.volumes.count_documents({"_id.tenant_id": Binary.from_uuid(tenant)}) == 0
