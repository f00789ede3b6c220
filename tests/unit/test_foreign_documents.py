"""Documents that Sluice did not write, or that were changed since: every value reads back as JSON."""

import json
import re
import uuid
from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from bson.binary import Binary, UuidRepresentation
from bson.codec_options import CodecOptions
from bson.datetime_ms import DatetimeMS
from msgspec import Raw

from server.core.events.model import StoredEvent
from storage.documents import decode

OID = bson.ObjectId("6b076d274a83ef53d2db0857")
ID, TENANT = uuid.UUID(int=1), uuid.UUID(int=2)
TIME = datetime(2026, 3, 1, 12, tzinfo=UTC)

WHOLE: dict[str, Any] = {
    "_id": ID,
    "tenant_id": TENANT,
    "source": "web",
    "received_at": TIME,
    "source_id": "one",
    "timestamp": TIME,
    "event_type": "view",
    "data": {"a": 1},
    "metadata": {"b": [2.5, None, True, "x"]},
}

OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(uuid_representation=UuidRepresentation.STANDARD, tz_aware=True)

FOREIGN: dict[str, tuple[Any, Any]] = {
    "ObjectId": (OID, {"$oid": str(OID)}),
    "Decimal128": (bson.Decimal128("1.50"), {"$numberDecimal": "1.50"}),
    "date": (TIME, {"$date": "2026-03-01T12:00:00Z"}),
    "date far away": (DatetimeMS(10**17), {"$date": {"$numberLong": str(10**17)}}),
    "bytes": (b"abc", {"$binary": {"base64": "YWJj", "subType": "00"}}),
    "binary": (Binary(b"abc", 128), {"$binary": {"base64": "YWJj", "subType": "80"}}),
    "UUID": (ID, {"$binary": {"base64": "AAAAAAAAAAAAAAAAAAAAAQ==", "subType": "04"}}),
    "MinKey": (bson.MinKey(), {"$minKey": 1}),
    "MaxKey": (bson.MaxKey(), {"$maxKey": 1}),
    "Timestamp": (bson.Timestamp(1, 2), {"$timestamp": {"t": 1, "i": 2}}),
    "regex": (re.compile("a.b"), {"$regularExpression": {"pattern": "a.b", "options": "u"}}),
    "bad regex": (bson.Regex("(", ""), {"$regularExpression": {"pattern": "(", "options": ""}}),
    "code": (bson.Code("f()"), {"$code": "f()"}),
    "code with scope": (bson.Code("f()", {"a": OID}), {"$code": "f()", "$scope": {"a": {"$oid": str(OID)}}}),
    "NaN": (float("nan"), {"$numberDouble": "NaN"}),
    "infinity": (float("inf"), {"$numberDouble": "Infinity"}),
    "-infinity": (float("-inf"), {"$numberDouble": "-Infinity"}),
    "Int64": (bson.Int64(5), 5),
    "large Int64": (bson.Int64(2**63 - 1), 2**63 - 1),
    "DBRef": (bson.DBRef("c", OID), {"$ref": "c", "$id": {"$oid": str(OID)}}),
}


def encoded(fields: dict[str, Any]) -> bytes:
    """A document with these fields, of which `_id` and `tenant_id` are parts of its own `_id`."""
    others = {name: value for name, value in fields.items() if name not in {"_id", "tenant_id"}}
    ids = {"tenant_id": fields["tenant_id"], "id": fields["_id"]}
    return bson.encode({"_id": ids, **others}, codec_options=OPTIONS)


def shown(fields: dict[str, Any]) -> StoredEvent:
    """The event that a document holds."""
    return decode(encoded(fields))


def parsed(value: object) -> Any:
    """What JSON says."""
    assert isinstance(value, Raw)
    return json.loads(bytes(value))


@pytest.mark.parametrize(("value", "expected"), FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("beside", [{}, {"$ref": "x"}], ids=["", "beside $ref"])
def test_a_foreign_value_inside_data_is_extended_json(value: Any, expected: Any, beside: dict[str, Any]) -> None:
    data = {**beside, "own": [1, -1, 2.5], "foreign": value, "deep": [{"foreign": value}]}
    event = shown({**WHOLE, "data": data, "metadata": {"foreign": value}})
    assert parsed(event.data) == {**data, "foreign": expected, "deep": [{"foreign": expected}]}
    assert parsed(event.metadata) == {"foreign": expected}
    assert event[:5] == (ID, TENANT, "web", "one", "view")
    assert (event.timestamp, event.received_at) == (TIME, TIME)


@pytest.mark.parametrize(("value", "expected"), FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("field", [field for field in WHOLE if field != "tenant_id"])
def test_a_foreign_value_in_place_of_a_field_is_extended_json(field: str, value: Any, expected: Any) -> None:
    event = shown({**WHOLE, field: value})
    found = getattr(event, field.removeprefix("_"))
    if (field, value) == ("_id", ID) or (field in {"timestamp", "received_at"} and value == TIME):
        assert found == value
    else:
        assert parsed(found) == expected
    others = [name.removeprefix("_") for name in WHOLE if name not in {field, "data", "metadata"}]
    assert [getattr(event, name) for name in others] == [getattr(shown(WHOLE), name) for name in others]


@pytest.mark.parametrize("field", [field for field in WHOLE if field not in {"_id", "tenant_id"}])
def test_a_missing_field_is_null(field: str) -> None:
    event = shown({name: value for name, value in WHOLE.items() if name != field})
    assert parsed(getattr(event, field)) is None


@pytest.mark.parametrize("value", ["text", 5, None, True, ["a"], {"a": [1, {"b": None}]}], ids=repr)
@pytest.mark.parametrize("field", ["data", "metadata", "timestamp", "received_at", "_id"])
def test_json_of_another_type_stays_as_it_is(field: str, value: Any) -> None:
    assert parsed(getattr(shown({**WHOLE, field: value}), field.removeprefix("_"))) == value


def test_a_string_that_is_no_utf_8_is_shown_as_far_as_it_is() -> None:
    document = encoded({**WHOLE, "data": {"a": "XYZ"}}).replace(b"XYZ", b"X\xffZ")
    assert parsed(decode(document).data) == {"a": "X\ufffdZ"}


def test_a_number_that_is_not_finite_is_found_wherever_it_is() -> None:
    document = {"_id": ID, "data": {"a": float("nan")}, "tenant_id": TENANT}
    assert parsed(shown(document).data) == {"a": {"$numberDouble": "NaN"}}
