"""Values that are kept exactly, and values that cannot be kept. Expected is what `json.loads` makes of the text."""

import json
from pathlib import Path

import httpx
import pytest

from tests.support.harness import MongoClient
from tests.support.values import EVENTS, event_text, exactly, nested, post, posted_id, rejected_paths, shown, stored

WEBHOOKS = Path(__file__).parents[4] / "shared" / "data" / "github-webhooks.ndjson"

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
    response = post(client, [event_text(text, metadata=text)])
    event_id = posted_id(response)
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
def test_value_that_cannot_be_kept_is_rejected(client: httpx.Client, field: str, text: str, path: str) -> None:
    bad = event_text(**{"data": "{}", field: text})
    assert rejected_paths(post(client, [bad])) == [f"events[0].{field}{path}"]
    assert rejected_paths(post(client, [event_text("{}"), bad])) == [f"events[1].{field}{path}"]


def test_path_to_a_long_key_is_cut(client: httpx.Client) -> None:
    (path,) = rejected_paths(post(client, [event_text(f'{{"{"k" * 5000}": {{"a": [1e999]}}}}')]))
    assert path == f"events[0].data.{'k' * 984}…"


def test_repeated_key_counts_once_and_last(client: httpx.Client) -> None:
    text = '{"a": 1e999, "b": {"\\u0000": 1}, "b": 2, "a": 1}'
    event_id = posted_id(post(client, [event_text(text)]))
    assert exactly(shown(client, event_id)["data"]) == "{'a': 1, 'b': 2}"


@pytest.mark.skipif(not WEBHOOKS.exists(), reason="the file of real events is not here")
def test_real_events_read_back_as_sent(client: httpx.Client, mongo: MongoClient) -> None:
    lines = WEBHOOKS.read_text().splitlines()
    assert len(lines) > 100
    for start in range(0, len(lines), 50):
        sent = lines[start : start + 50]
        response = post(client, sent)
        assert response.status_code == 201, response.text
        ids = [item["id"] for item in response.json()["events"]]
        for line, document in zip(sent, stored(mongo, ids), strict=True):
            assert exactly(document["data"]) == exactly(json.loads(line)["data"])


BAD_FIELDS: dict[str, tuple[str, str]] = {
    "half a pair": ('"\\ud800"', '["\\ud800"]'),
    "like a path of ours": ('"x` - at `$.y"', '["x` - at `$.y"]'),
    "empty": ('""', '[""]'),
    "plain": ('"typ"', ".typ"),
}


@pytest.mark.parametrize(("field", "path"), BAD_FIELDS.values(), ids=BAD_FIELDS)
def test_unknown_field_is_rejected_by_name(client: httpx.Client, field: str, path: str) -> None:
    assert rejected_paths(post(client, [f'{{"type": "t", "data": {{}}, {field}: 1}}'])) == [f"events[0]{path}"]
