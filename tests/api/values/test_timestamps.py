"""Timestamps of events: which forms are read, how they are stored, and which are rejected."""

import json
import uuid
from datetime import UTC, datetime

import httpx
import pytest

from tests.support.harness import MongoClient
from tests.support.values import event_text, post, posted_id, rejected_paths, shown

TIMES: dict[str, tuple[str, str]] = {
    "with Z": ("2026-03-01T12:00:00Z", "2026-03-01T12:00:00"),
    "no offset": ("2026-03-01T12:00:00", "2026-03-01T12:00:00"),
    "east": ("2026-03-01T12:00:00+05:30", "2026-03-01T06:30:00"),
    "west, over midnight": ("2026-12-31T23:00:00-02:00", "2027-01-01T01:00:00"),
    "offset without colon": ("2026-03-01T12:00:00+0200", "2026-03-01T10:00:00"),
    "offset in hours": ("2026-03-01T12:00:00-02", "2026-03-01T14:00:00"),
    "offset with seconds": ("2026-03-01T12:00:00+00:00:30", "2026-03-01T11:59:30"),
    "space": ("2026-03-01 12:00:00", "2026-03-01T12:00:00"),
    "lower-case t": ("2026-03-01t12:00:00", "2026-03-01T12:00:00"),
    "date alone": ("2026-03-01", "2026-03-01T00:00:00"),
    "basic date": ("20260301", "2026-03-01T00:00:00"),
    "basic": ("20260301T120005Z", "2026-03-01T12:00:05"),
    "basic with fraction": ("20260301T120005.25+0100", "2026-03-01T11:00:05.250"),
    "hours": ("2026-03-01T12", "2026-03-01T12:00:00"),
    "minutes": ("2026-03-01T12:34", "2026-03-01T12:34:00"),
    "week": ("2026-W09", "2026-02-23T00:00:00"),
    "week and day": ("2026-W09-7T12:00:00Z", "2026-03-01T12:00:00"),
    "basic week and day": ("2026W097", "2026-03-01T00:00:00"),
    "week of another year": ("2026-W53-5", "2027-01-01T00:00:00"),
    "leap day": ("2028-02-29T00:00:00Z", "2028-02-29T00:00:00"),
    "milliseconds": ("2026-03-01T12:00:00.120Z", "2026-03-01T12:00:00.120"),
    "comma": ("2026-03-01T12:00:00,5", "2026-03-01T12:00:00.500"),
    "microseconds are cut": ("2026-03-01T12:00:00.123999Z", "2026-03-01T12:00:00.123"),
    "nanoseconds are cut": ("2026-03-01T12:00:00.000999999Z", "2026-03-01T12:00:00"),
    "cut before 1970 too": ("1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999"),
    "1970": ("1970-01-01", "1970-01-01T00:00:00"),
    "year 1": ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00"),
    "year 1 from west": ("0001-01-01T00:00:00.001-23:59", "0001-01-01T23:59:00.001"),
    "year 9999": ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999"),
    "year 9999 from east": ("9999-12-31T23:59:59+23:59", "9999-12-31T00:00:59"),
}


@pytest.mark.parametrize(("text", "expected"), TIMES.values(), ids=TIMES)
def test_timestamp(client: httpx.Client, mongo: MongoClient, text: str, expected: str) -> None:
    event_id = posted_id(post(client, [event_text("{}", timestamp=json.dumps(text))]))
    assert shown(client, event_id)["timestamp"] == expected
    document = mongo.sluice.events.find_one({"_id.id": uuid.UUID(event_id)})
    assert document is not None
    assert document["timestamp"] == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize("fields", [{}, {"timestamp": "null"}], ids=["absent", "null"])
def test_timestamp_by_default_is_the_time_of_receipt(client: httpx.Client, fields: dict[str, str]) -> None:
    event = shown(client, posted_id(post(client, [event_text("{}", **fields)])))
    assert event["timestamp"] == event["received_at"]


BAD_TIMES: dict[str, str] = {
    "empty": '""',
    "words": '"yesterday"',
    "seconds since 1970": '"1772366400"',
    "a number": "1772366400",
    "an object": '{"$date": 1}',
    "no such day": '"2026-02-29"',
    "no such hour": '"2026-03-01T25:00:00Z"',
    "no such second": '"2026-03-01T12:00:60Z"',
    "no such week": '"2027-W53-1"',
    "no such offset": '"2026-03-01T12:00:00+24:00"',
    "space before": '" 2026-03-01"',
    "space after": '"2026-03-01T12:00:00Z "',
    "other digits": '"٢٠٢٦-03-01"',
    "NUL": '"2026-03-01\\u0000"',
    "half a pair": '"2026-03-01\\ud80012:00:00"',
    "time alone": '"12:00:00"',
    "year 0": '"0000-01-01"',
    "year 0 in UTC": '"0001-01-01T00:00:00+00:01"',
    "year 10000": '"10000-01-01"',
    "year 10000 in UTC": '"9999-12-31T23:59:59-00:01"',
}


@pytest.mark.parametrize("text", BAD_TIMES.values(), ids=BAD_TIMES)
def test_bad_timestamp_is_rejected(client: httpx.Client, text: str) -> None:
    assert rejected_paths(post(client, [event_text("{}", timestamp=text)])) == ["events[0].timestamp"]
