"""One event by its id: all of its fields in order, and 404 for ids of no event."""

import re
import uuid

import pytest

from tests.support.harness import event
from tests.support.reading import EVENTS, Tenant, assert_not_found


def test_an_event_is_shown_whole_and_in_order(tenant: Tenant) -> None:
    sent = {
        "source": "etl",
        "source_id": "etl-7",
        "events": [
            event(type="full", timestamp="2026-03-01T12:00:00.120Z", metadata={"sdk": "1.2"}),
            event(type="bare", timestamp="2026-03-01T12:00:00Z"),
        ],
    }
    with_id = tenant.client.post(EVENTS, json=sent).json()["events"]
    without_id = tenant.client.post(EVENTS, json={"source": "etl", "events": [event(type="alone")]}).json()["events"]
    shown = [tenant.client.get(f"{EVENTS}/{item['id']}") for item in with_id + without_id]
    assert [response.status_code for response in shown] == [200, 200, 200]
    assert {response.headers["content-type"] for response in shown} == {"application/json"}
    full, bare, alone = (response.json() for response in shown)
    received_at = full["received_at"]
    assert list(full.items()) == [
        ("id", with_id[0]["id"]),
        ("tenant_id", tenant.key["tenant_id"]),
        ("source", "etl"),
        ("source_id", "etl-7"),
        ("event_type", "full"),
        ("data", event()["data"]),
        ("timestamp", "2026-03-01T12:00:00.120"),
        ("received_at", received_at),
        ("metadata", {"sdk": "1.2"}),
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.(?!000)\d{3})?", received_at)
    assert received_at.startswith(with_id[0]["received_at"])
    assert (bare["timestamp"], bare["metadata"], bare["received_at"]) == ("2026-03-01T12:00:00", None, received_at)
    assert (alone["source_id"], alone["timestamp"]) == (None, alone["received_at"])
    assert tenant.client.get(EVENTS, params={"source": "etl"}).json() == [alone, bare, full]
    assert tenant.client.get(f"{EVENTS}/{full['id'].upper()}").json() == full


NO_IDS: dict[str, str] = {
    "unknown": str(uuid.uuid4()),
    "zero": str(uuid.UUID(int=0)),
    "words": "tail-or-head",
    "one digit short": str(uuid.uuid4())[:-1],
    "one digit long": f"{uuid.uuid4()}0",
    "not hexadecimal": "g" + str(uuid.uuid4())[1:],
    "of MongoDB": "507f1f77bcf86cd799439011",
    "escaped NUL": f"{uuid.uuid4()}%00",
    "other digits": "%D9%A1" * 32,
    "not UTF-8": "%FF%FE",
    "a path": f"{uuid.uuid4()}/data",
    "long": "a" * 10_000,
}


@pytest.mark.parametrize("event_id", NO_IDS.values(), ids=NO_IDS)
def test_no_event_with_this_id(tenant: Tenant, event_id: str) -> None:
    assert_not_found(tenant.client.get(f"{EVENTS}/{event_id}"))
