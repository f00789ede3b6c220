"""Raw bodies: every form of them, what is stored, and what one bad item costs."""

import codecs
import gzip
import json
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from backports import zstd

from server.rest.http.negotiation import LINE_TYPES
from tests.support.harness import Json, MongoClient, batch, event
from tests.support.problems import assert_problem, count_events
from tests.support.raw import NDJSON, lines_of, numbered, post_raw, stored_of

JSON = "application/json"

ITEMS = [{"n": 0, "a": [1.5, None]}, {"n": 1, "é": {}}]

FORMS = {
    **{media_type: (media_type, lines_of(ITEMS)) for media_type in LINE_TYPES},
    "charset": (f"{NDJSON}; charset=utf-8", lines_of(ITEMS)),
    "CRLF and blank lines": (NDJSON, b"\r\n \n" + lines_of(ITEMS).replace(b"\n", b"\r\n\r\n\t\n")),
    "no end of the last line": (NDJSON, lines_of(ITEMS).rstrip()),
    "byte order mark": (NDJSON, codecs.BOM_UTF8 + lines_of(ITEMS)),
    "array": (JSON, json.dumps(ITEMS, indent=2).encode()),
    "array with a byte order mark": (JSON, codecs.BOM_UTF8 + json.dumps(ITEMS).encode()),
}


@pytest.mark.parametrize(("media_type", "body"), FORMS.values(), ids=FORMS)
def test_every_form(client: httpx.Client, key: Json, mongo: MongoClient, media_type: str, body: bytes) -> None:
    response = post_raw(client, "source=edge&source_id=7&type=log", body, media_type)
    assert (response.status_code, response.json()) == (201, {"success": True, "events_received": 2})
    stored = stored_of(mongo, key)
    assert [each["data"] for each in stored] == ITEMS
    assert {(each["source"], each["source_id"], each["event_type"]) for each in stored} == {("edge", "7", "log")}


def test_one_object(client: httpx.Client, key: Json, mongo: MongoClient) -> None:
    assert post_raw(client, "source=s&type=t", b' {"a": [1]} ', JSON).json() == {"success": True, "events_received": 1}
    assert [each["data"] for each in stored_of(mongo, key)] == [{"a": [1]}]


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("zstd", zstd.compress)])
def test_compressed(client: httpx.Client, encoding: str, compress: type[bytes]) -> None:
    response = post_raw(client, "source=s&type=t", compress(numbered(5)), Content_Encoding=encoding)
    assert response.json() == {"success": True, "events_received": 5}


def test_items_that_are_events(client: httpx.Client, key: Json, mongo: MongoClient) -> None:
    events = [event(0, timestamp="2026-03-01T12:00:00.1239Z", metadata={"sdk": "1"}), event(1, type="signup")]
    assert post_raw(client, "source=s", lines_of(events)).status_code == 201
    first, second = stored_of(mongo, key)
    assert first["timestamp"] == datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC)
    assert first["metadata"] == {"sdk": "1"}
    assert [first["event_type"], second["event_type"]] == ["purchase", "signup"]


def test_type_and_time_of_fields(client: httpx.Client, key: Json, mongo: MongoClient) -> None:
    start = datetime(2026, 3, 1, 12, tzinfo=UTC)
    times = [1772366400, 1772366400.123, 1772366400123, "2026-03-01T13:00:00.123+01:00", None]
    items = [{"kind": f"k{index}", "ts": time} for index, time in enumerate(times)] + [{"kind": "k5"}]
    assert post_raw(client, "source=s&type_field=kind&time_field=ts", lines_of(items)).status_code == 201
    stored = stored_of(mongo, key)
    assert [each["event_type"] for each in stored] == [f"k{index}" for index in range(6)]
    assert [each["data"] for each in stored] == items
    later = start + timedelta(milliseconds=123)
    received_at = stored[0]["received_at"]
    assert [each["timestamp"] for each in stored] == [start, later, later, later, received_at, received_at]


def test_many_items_are_stored_in_order(client: httpx.Client, key: Json, mongo: MongoClient) -> None:
    for media_type, body in ((NDJSON, numbered(2_500)), (JSON, json.dumps(json_items(2_500)).encode())):
        response = post_raw(client, "source=s&type=t", body, media_type)
        assert response.json() == {"success": True, "events_received": 2_500}
    assert [each["data"]["index"] for each in stored_of(mongo, key)] == [*range(2_500)] * 2


def json_items(count: int) -> list[Json]:
    return [{"index": index} for index in range(count)]


BAD_LINES = {
    "bad JSON": (b"nope", "items[1500]", "malformed"),
    "byte order mark": (b"\xef\xbb\xbf{}", "items[1500]", "may only be at the start of a body (byte 0)"),
    "record separator": (b"\x1e{}", "items[1500]", "record separator (0x1E, as in RFC 7464) is not JSON (byte 0)"),
    "bad UTF-8": (b'{"a":"\xff"}', "items[1500]", "not UTF-8"),
    "too deep to parse": (b"[" * 5_000, "items[1500]", "too deeply"),
    "too deep to store": (b'{"a":' + b"[" * 101 + b"]" * 101 + b"}", "items[1500].data.a", "Nested deeper"),
    "too large": (b'{"a":"%s"}' % (b"a" * 1024 * 1024), "items[1500]", "bytes as BSON"),
    "NUL in a key": (rb'{"\u0000":1}', r'items[1500].data["\u0000"]', "NUL"),
    "long integer": (b'{"a":9223372036854775808}', "items[1500].data.a", "64 bits"),
    "no object": (b"[1]", "items[1500].data", "Expected `object`"),
}


@pytest.mark.parametrize(("line", "path", "message"), BAD_LINES.values(), ids=BAD_LINES)
def test_one_bad_line_costs_that_line(
    client: httpx.Client, key: Json, mongo: MongoClient, line: bytes, path: str, message: str
) -> None:
    good = numbered(2_000).splitlines(keepends=True)
    response = post_raw(client, "source=s&type=t", b"\n\n".join([*good[:1_500], line, *good[1_500:]]))
    assert response.status_code == 201
    assert "preference-applied" not in response.headers
    assert response.json()["events_received"] == count_events(mongo, key) == 2_000
    (error,) = response.json()["errors"]
    assert error["path"].startswith(path)
    assert message in error["message"]


def test_errors_are_the_first_hundred(client: httpx.Client) -> None:
    response = post_raw(client, "source=s&type=t", b"{}\n" + b"5\n" * 3_000 + b"{}\n")
    assert response.status_code == 201
    assert response.json()["events_received"] == 2
    assert [error["path"] for error in response.json()["errors"]] == [f"items[{index}].data" for index in range(1, 101)]


def test_none_valid(client: httpx.Client) -> None:
    problem = assert_problem(
        post_raw(client, "source=s&type=t", b"5\n" * 2_500),
        400,
        "invalid_batch",
        r"items\[0\]\.data.*\(and 2499 more bad items\)$",
    )
    assert len(problem["errors"]) == 100
    for body, media_type in ((b"", NDJSON), (b" \r\n\n", NDJSON), (b"[ ]", JSON)):
        response = post_raw(client, "source=s&type=t", body, media_type)
        assert_problem(response, 400, "invalid_batch", "items: 0 given")


@pytest.mark.parametrize("body", [b"", b"[{},", b'{"a":\xff}', b"[{}] {}", b"{}\n{}"])
def test_json_that_cannot_be_split(client: httpx.Client, body: bytes) -> None:
    assert_problem(post_raw(client, "source=s&type=t", body, JSON), 400, "malformed_json", "JSON")


def test_a_batch_with_the_query_of_a_raw_body(client: httpx.Client) -> None:
    for media_type in (JSON, NDJSON):
        response = post_raw(client, "source=s", json.dumps(batch()).encode(), media_type)
        assert_problem(response, 400, "invalid_batch", r"^items\[0\]: Is a batch, which is sent without a query")


def test_strict_handling(client: httpx.Client, key: Json, mongo: MongoClient) -> None:
    strict = {"Prefer": "handling=strict"}
    for body, more in ((b"{}\n5\n", "`number`"), (b"{}\n5\n6\n", r"\(and 1 more bad item\)")):
        response = post_raw(client, "source=s&type=t", body, **strict)
        assert_problem(response, 400, "invalid_batch", rf"^items\[1\]\.data: Expected.*{more}$")
    assert_problem(post_raw(client, "source=s&type=t", numbered(1_001), **strict), 400, "invalid_batch", "1000")
    assert count_events(mongo, key) == 0
    response = post_raw(client, "source=s&type=t", numbered(1_000), **strict)
    assert response.json() == {"success": True, "events_received": 1_000}
    assert response.headers["preference-applied"] == "handling=strict"


def test_lenient_handling_is_confirmed_if_it_is_asked_for(client: httpx.Client) -> None:
    response = post_raw(client, "source=s&type=t", b"{}\n", Prefer="handling=lenient")
    assert response.headers["preference-applied"] == "handling=lenient"


def test_a_body_over_10_mib(client: httpx.Client) -> None:
    assert_problem(
        post_raw(client, "source=s&type=t", b" " * (10 * 1024 * 1024 + 1)), 413, "payload_too_large", "10 MiB"
    )
