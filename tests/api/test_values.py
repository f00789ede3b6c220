"""Values read back as exactly the JSON that was sent, or are refused with the path to what is wrong.

What is expected comes from `json.loads` of the text that was sent. Set SLUICE_LONG=1 for many more random examples.
"""

import json
import math
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.harness import Json, MongoClient, Server

LONG = "SLUICE_LONG" in os.environ
WEBHOOKS = Path(__file__).parents[3] / "shared" / "data" / "github-webhooks.ndjson"
EVENTS = "/api/v1/events"
RAW: CodecOptions[Any] = CodecOptions(  # which makes no DBRef of {"$ref": ...}
    document_class=RawBSONDocument, uuid_representation=UuidRepresentation.STANDARD
)


@pytest.fixture(scope="module")
def key(server: Server) -> Json:
    return server.create_key("values", "--rate-limit", "0")


@pytest.fixture(scope="module")
def client(server: Server, key: Json) -> Iterator[httpx.Client]:
    with server.client(key["key"]) as opened:
        yield opened


def exactly(value: Any) -> str:
    """A JSON value as text that differs where the value, a type, the sign of a zero or the order of keys does."""
    return repr(value)


def post(client: httpx.Client, events: Iterable[str], source: str = "values", **headers: str) -> httpx.Response:
    """Send events, each given as its JSON text."""
    body = f'{{"source": "{source}", "events": [{", ".join(events)}]}}'
    return client.post(EVENTS, content=body.encode(), headers={"Content-Type": "application/json", **headers})


def event_text(data: str, **fields: str) -> str:
    """The JSON text of an event with `data` and other fields, each given as JSON text."""
    return "{" + ", ".join(f'"{name}": {text}' for name, text in {"type": '"t"', "data": data, **fields}.items()) + "}"


def posted_id(answer: httpx.Response) -> str:
    """The id of the one event that was stored."""
    assert answer.status_code == 201, answer.text
    (item,) = answer.json()["events"]
    return str(item["id"])


def shown(client: httpx.Client, event_id: str) -> Json:
    """An event as REST shows it."""
    value: Json = json.loads(client.get(f"{EVENTS}/{event_id}").text)
    return value


def refused(answer: httpx.Response) -> list[str]:
    """The paths for which a batch was refused."""
    assert answer.status_code == 400, answer.text
    problem = answer.json()
    assert problem["code"] == "invalid_batch"
    assert problem["detail"].startswith(problem["errors"][0]["path"] + ": ")
    return [item["path"] for item in problem["errors"]]


def stored(mongo: MongoClient, ids: Sequence[str]) -> list[Json]:
    """The documents with these ids, in their order, with `data` and `metadata` as the JSON values that stand there."""
    wanted = [uuid.UUID(item) for item in ids]
    found = {item["_id"]: item for item in mongo.sluice.events.with_options(RAW).find({"_id": {"$in": wanted}})}
    return [plain(found[item]) for item in wanted]


def plain(value: Any) -> Any:
    """A raw BSON value with the plain types of JSON."""
    match value:
        case RawBSONDocument():
            return {key: plain(item) for key, item in value.items()}
        case list():
            return [plain(item) for item in value]
        case Int64():
            return int(value)
    return value


def nested(levels: int, opening: str, closing: str, bottom: str) -> str:
    """The text of an object with so many levels, itself being the first."""
    return '{"a": ' + opening * (levels - 1) + bottom + closing * (levels - 1) + "}"


GOOD: dict[str, str] = {
    "empty": "{}",
    "constants and empties": '{"a": null, "b": true, "c": false, "d": [], "e": {}, "f": ""}',
    "order of keys": '{"z": 1, "a": 2, "m": {"10": 1, "9": 2, "b": 3, "a": 4}}',
    "repeated key": '{"b": 1, "a": {"x": 1, "x": {"y": 1, "y": [2]}}, "b": 3}',
    "ints and floats": '{"a": [0, 0.0, 1, 1.0, 1e5, 1E+5, 100000, 1e0, 12e-1]}',
    "zeros": '{"a": [-0, -0.0, 0e5, -0E-5, 0e99999999999999999999, -1e-999, 2e-400]}',
    "int32 bounds": '{"a": [2147483647, 2147483648, -2147483648, -2147483649]}',
    "double-exact bounds": '{"a": [9007199254740991, 9007199254740993, -9007199254740993]}',
    "int64 bounds": '{"a": 9223372036854775807, "b": -9223372036854775808}',
    "doubles beyond int64": '{"a": [9223372036854775808.0, 18446744073709551616e0, 1e19, -1e300]}',
    "roundings": '{"a": [0.1, 0.30000000000000004, 9007199254740993.0, 9007199254740993e0, 1e23, 8.41e21]}',
    "double bounds": '{"a": [5e-324, 2.4703282292062328e-324, 2.2250738585072011e-308, 1.7976931348623157e308]}',
    "double's last": '{"a": 1.7976931348623158079e308}',
    "long numbers": f'{{"a": [0.1{"0" * 900}1, {"9" * 300}.5, 1{"0" * 400}e-400, 0.{"0" * 400}1e400]}}',
    "$ref": '{"$ref": "c", "$id": 1, "$db": "d"}',
    "$ref within": '{"a": {"$ref": "c", "$id": {"$ref": "c", "$id": 1}}, "b": [{"$ref": 1}, {"$id": 2}, {"$db": 3}]}',
    "$ref in a large one": f'{{"a": {{"$ref": "c", "$id": 1}}, "b": "{"x" * 5000}"}}',
    "$id alone": '{"$id": 5}',
    "operators": '{"$set": {"a": 1}, "$where": "x", "": {"$": 1, "$$": 2}, "$a": {"$or": [{"$gt": 1}]}}',
    "extended JSON": '{"a": {"$oid": "0"}, "b": {"$date": "2026"}, "c": {"$numberLong": "5"}, "d": {"$uuid": "x"}}',
    "dots": '{"a.b": 1, ".": 2, "..": 3, "a.": {".b": [4]}, "a": {"b": 5}}',
    "empty keys": '{"": {"": [{"": 1}]}}',
    "_id": '{"z": 1, "_id": [1], "a": {"y": 2, "_id": {"$x": 1}}, "b": [{"x": 1, "_id": null}]}',
    "NUL in a string": '{"a": "x\\u0000y", "b": ["\\u0000"]}',
    "escapes": '{"\\"\\\\\\/\\b\\f\\n\\r\\t": "\\"\\\\\\/\\b\\f\\n\\r\\t\\u001f\\u007f"}',
    "unicode": '{"ключ": "значение", "\\u00e9": "e\\u0301 é", "a": "\u2028\u2029\ufeff\ufffe\uffff", "b": "日本"}',
    "astral": '{"a": "😀 \\ud83d\\ude00 👩‍👩‍👧 \\udbff\\udfff", "😀": {"\\ud83d\\ude01": 1}}',
    "keys that look alike": '{"\u00e9": 1, "e\u0301": 2, "E": 3, "e": 4, "ﬁ": 5, "fi": 6}',
    "keys of other languages": '{"__proto__": 1, "constructor": {"prototype": 2}, "__class__": 3, "0": 4, "length": 5}',
    "white space": '\n{\t"a" : [ 1 ,\r\n 2 ] }\n',
    "long key and string": f'{{"{"k" * 5000}": "{"é" * 50000}"}}',
    "wide": json.dumps({"a": list(range(5000)), **{f"k{index}": index for index in range(2000)}}),
    "100 levels of objects": nested(100, '{"a": ', "}", "1"),
    "100 levels of arrays": nested(100, "[", "]", "1"),
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_value_reads_back_as_sent(client: httpx.Client, mongo: MongoClient, text: str) -> None:
    answer = post(client, [event_text(text, metadata=text)])
    event_id = posted_id(answer)
    (document,) = stored(mongo, [event_id])
    listed = json.loads(client.get(EVENTS, params={"limit": 1}).text)[0]
    expected = exactly(json.loads(text))
    for place in (shown(client, event_id), listed, document):
        assert exactly(place["data"]) == expected
        assert exactly(place["metadata"]) == expected


BAD: dict[str, tuple[str, str]] = {
    "int64 and one": ('{"a": 9223372036854775808}', ".a"),
    "int64 minus one": ('{"a": -9223372036854775809}', ".a"),
    "uint64": ('{"a": [18446744073709551615]}', ".a[0]"),
    "long integer": (f'{{"a": {"1" * 5000}}}', ".a"),
    "infinite": ('{"a": 1e999}', ".a"),
    "minus infinite": ('{"a": [0, {"b-c": -1E+400}]}', ".a[1].b-c"),
    "just infinite": ('{"a": 1.797693134862315808e308}', ".a"),
    "huge exponent": ('{"a": 1e99999999999999999999}', ".a"),
    "NUL in a key": ('{"ok": 1, "a\\u0000": 1}', '["a\\u0000"]'),
    "key of NUL": ('{"a": [[{"\\u0000": 1}]]}', '.a[0][0]["\\u0000"]'),
    "half a pair": ('{"a": "x\\ud800y"}', ".a"),
    "second half": ('{"a": {"b": ["\\udfff"]}}', ".a.b[0]"),
    "pair reversed": ('{"a": "\\udc00\\ud800"}', ".a"),
    "half a pair in a key": ('{"x": {"\\ud800": 1}}', '.x["\\ud800"]'),
    "odd keys": ('{"a.b": {"": {"$x": {"9": {"é \\"": 1e999}}}}}', '["a.b"][""]["$x"]["9"]["\\u00e9 \\""]'),
    "in a repeated key": ('{"a": {"b": 1}, "a": [1e999]}', ".a[0]"),
    "101 levels of objects": (nested(101, '{"a": ', "}", "1"), ".a" * 100),
    "101 levels of arrays": (nested(101, "[", "]", ""), ".a" + "[0]" * 99),
    "400 levels": (nested(200, '[{"a": ', "}]", "1").replace("[", "[1, ", 1), ".a[1]" + ".a[0]" * 49),
}


@pytest.mark.parametrize("field", ["data", "metadata"])
@pytest.mark.parametrize(("text", "path"), BAD.values(), ids=BAD)
def test_value_that_cannot_be_kept_is_refused(client: httpx.Client, field: str, text: str, path: str) -> None:
    bad = event_text(**{"data": "{}", field: text})
    assert refused(post(client, [bad])) == [f"events[0].{field}{path}"]
    assert refused(post(client, [event_text("{}"), bad])) == [f"events[1].{field}{path}"]


def test_path_to_a_long_key_is_cut(client: httpx.Client) -> None:
    (path,) = refused(post(client, [event_text(f'{{"{"k" * 5000}": {{"a": [1e999]}}}}')]))
    assert path == f"events[0].data.{'k' * 984}…"


def test_repeated_key_counts_once_and_last(client: httpx.Client) -> None:
    text = '{"a": 1e999, "b": {"\\u0000": 1}, "b": 2, "a": 1}'
    event_id = posted_id(post(client, [event_text(text)]))
    assert exactly(shown(client, event_id)["data"]) == "{'a': 1, 'b': 2}"


# Random JSON, ugly to the limit, as text: a number is made of digits, not of what Python would write.
DIGITS = st.from_regex(r"-?(0|[1-9][0-9]{0,25})", fullmatch=True)
EXPONENTS = st.from_regex(r"[eE][+-]?[0-9]{1,3}", fullmatch=True)
NUMBERS = st.one_of(
    DIGITS,
    st.integers(-(2**63) - 2, -(2**63) + 2).map(str),
    st.integers(2**63 - 2, 2**63 + 2).map(str),
    st.integers(-(2**31) - 2, 2**53 + 2).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.builds("{}{}".format, DIGITS, EXPONENTS),
    st.builds("{}.{}{}".format, DIGITS, st.from_regex(r"[0-9]{1,25}", fullmatch=True), st.just("") | EXPONENTS),
    st.sampled_from(["1e999", "-1e400", "-0", "-0.0", "1e-400", "0e999", "1.7976931348623159e308"]),
)
CHARACTERS = st.one_of(
    st.sampled_from('ab_$."\\ \n😀é'), st.characters(exclude_categories=[]), st.sampled_from("\0\ud800\udfff")
)
NICE = st.text("ab_-9", max_size=3)
STRINGS = st.builds(
    lambda text, escaped: json.dumps(text, ensure_ascii=escaped or any("\ud800" <= item <= "\udfff" for item in text)),
    NICE | st.sampled_from(["$ref", "$id", "_id", "$set", "a.b"]) | st.text(CHARACTERS, max_size=4),
    st.booleans(),
)


def array(items: Iterable[str]) -> str:
    """The text of an array."""
    return f"[{', '.join(items)}]"


def object_(members: Iterable[tuple[str, str]]) -> str:
    """The text of an object."""
    return f"{{{', '.join(f'{name}: {value}' for name, value in members)}}}"


def wrapped(value: str, openings: Sequence[str]) -> str:
    """The text of a value within many arrays and objects."""
    return "".join(openings) + value + "".join("]" if text.startswith("[") else "}" for text in reversed(openings))


def members(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Texts of objects with such values."""
    return st.lists(st.tuples(STRINGS, values), max_size=4).map(object_)


VALUES = st.recursive(
    NUMBERS | STRINGS | st.sampled_from(["null", "true", "false"]),
    lambda values: st.lists(values, max_size=4).map(array) | members(values),
    max_leaves=12,
)
DEEP = st.builds(
    wrapped, VALUES, st.lists(st.sampled_from(["[", "[0, ", '{"a": ', '{"b": 1, "": ']), min_size=94, max_size=103)
)
OBJECTS = members(st.one_of([VALUES] * 9 + [DEEP]))


def flaws(value: Any, path: str, level: int = 1) -> Iterator[str]:
    """The path of everything in a JSON value that cannot be kept."""
    if isinstance(value, dict | list) and level > 100:
        yield path
    elif isinstance(value, dict):
        for name, item in value.items():
            plain_name = re.fullmatch("[A-Za-z_][A-Za-z0-9_-]*", name)
            below = f"{path}.{name}" if plain_name else f"{path}[{json.dumps(name)}]"
            if "\0" in name or not is_unicode(name):
                yield below
            yield from flaws(item, below, level + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from flaws(item, f"{path}[{index}]", level + 1)
    elif (
        (isinstance(value, str) and not is_unicode(value))
        or (isinstance(value, float) and math.isinf(value))
        or (isinstance(value, int) and not -(2**63) <= value < 2**63)
    ):
        yield path


def is_unicode(text: str) -> bool:
    """Whether no half of a surrogate pair stands alone."""
    return text.encode("utf-8", "ignore").decode() == text


def test_flaws_are_found() -> None:
    value = {"ok": [1.5, -(2**63)], "a b": [2**63, {"\0": {"c": -math.inf}}], "d": "\ud800"}
    assert list(flaws(value, "x")) == [
        'x["a b"][0]',
        'x["a b"][1]["\\u0000"]',
        'x["a b"][1]["\\u0000"].c',
        "x.d",
    ]


@settings(max_examples=1000 if LONG else 100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=st.lists(st.tuples(OBJECTS, st.none() | OBJECTS), min_size=1, max_size=12))
def test_any_object_is_kept_exactly_or_refused(
    client: httpx.Client, mongo: MongoClient, texts: list[tuple[str, str | None]]
) -> None:
    events = [
        event_text(data, **({} if metadata is None else {"metadata": metadata}), type=str(index).join('""'))
        for index, (data, metadata) in enumerate(texts)
    ]
    sent = [json.loads(text) for text in events]
    bad = {
        index: paths
        for index, item in enumerate(sent)
        if (paths := [path for field in item for path in flaws(item[field], f"events[{index}].{field}")])
    }
    source = uuid.uuid4().hex
    answer = post(client, events, source, Prefer="handling=lenient")
    good = [index for index in range(len(events)) if index not in bad]
    if good:
        assert answer.status_code == 201, answer.text
        named = [item["path"] for item in answer.json().get("errors", [])]
    else:
        named = refused(answer)
    assert len(named) == len(bad)
    for path, paths in zip(named, bad.values(), strict=True):
        assert path in paths
    listed = json.loads(client.get(EVENTS, params={"source": source}).text)[::-1]
    assert [int(item["event_type"]) for item in listed] == good
    for index, item, document in zip(good, listed, stored(mongo, [item["id"] for item in listed]), strict=True):
        for field in ("data", "metadata"):
            assert exactly(item[field]) == exactly(sent[index].get(field))
            assert exactly(document.get(field)) == exactly(sent[index].get(field))


@pytest.mark.skipif(not WEBHOOKS.exists(), reason="the file of real events is not here")
def test_real_events_read_back_as_sent(client: httpx.Client, mongo: MongoClient) -> None:
    lines = WEBHOOKS.read_text().splitlines()
    assert len(lines) > 100
    for start in range(0, len(lines), 50):
        sent = lines[start : start + 50]
        answer = post(client, sent)
        assert answer.status_code == 201, answer.text
        ids = [item["id"] for item in answer.json()["events"]]
        for line, document in zip(sent, stored(mongo, ids), strict=True):
            assert exactly(document["data"]) == exactly(json.loads(line)["data"])


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
    document = mongo.sluice.events.find_one({"_id": uuid.UUID(event_id)})
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
def test_bad_timestamp_is_refused(client: httpx.Client, text: str) -> None:
    assert refused(post(client, [event_text("{}", timestamp=text)])) == ["events[0].timestamp"]


BAD_FIELDS: dict[str, tuple[str, str]] = {
    "half a pair": ('"\\ud800"', '["\\ud800"]'),
    "like a path of ours": ('"x` - at `$.y"', '["x` - at `$.y"]'),
    "empty": ('""', '[""]'),
    "plain": ('"typ"', ".typ"),
}


@pytest.mark.parametrize(("field", "path"), BAD_FIELDS.values(), ids=BAD_FIELDS)
def test_unknown_field_is_refused_by_name(client: httpx.Client, field: str, path: str) -> None:
    assert refused(post(client, [f'{{"type": "t", "data": {{}}, {field}: 1}}'])) == [f"events[0]{path}"]
