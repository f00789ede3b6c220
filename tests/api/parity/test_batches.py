"""Each case goes through a POST, a unary call and a stream. All three must have the same outcome.

A case says enough of its outcome that the three cannot all be wrong in the same way.
"""

import json
from typing import Any

import bson
import grpc
import httpx
import pytest
from bson.raw_bson import RawBSONDocument
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import metadata, stub_of
from tests.support.harness import Json, MongoClient
from tests.support.parity import (
    MAX_TRAILER_BYTES,
    Case,
    Event,
    Outcome,
    Rejected,
    Stored,
    by_rest,
    by_stream,
    by_unary,
    error_of,
    status_from,
    take_stored,
)
from tests.support.values import nested

MIB = 1024 * 1024

ALMOST = 0.85
"""How full trailers are at least if violations were left out."""


def content_of(document: Json, exact: bool) -> Json:
    """A stored document without its id and its time of receipt. If `exact`, objects are compared as BSON."""
    content: Json = {}
    for name, value in document.items():
        if name in {"_id", "received_at"}:
            continue
        if isinstance(value, RawBSONDocument):
            content[name] = value.raw if exact else bson.decode(value.raw)
        else:
            content[name] = value
    if document["timestamp"] == document["received_at"]:
        content["timestamp"] = "received_at"
    return content


TWO_BAD = [Event('{"n":1}'), Event("[]"), Event("{}"), Event('{"a":1e999}'), Event('{"n":2}', '{"m":1}')]

UGLY = r'{"z":{"$ref":"c","$id":1},"a.b":[{"$set":null}],"":{"":true},"_id":"\u0000","é\"":"\ud83d\ude00","a":-0.0}'

NEW_YEAR = ("2026-01-01T00:00:00.123999Z", 1767225600, 123_999_999)


def one(data: str | None = "{}", *paths: str, **fields: Any) -> Case:
    """A batch of one event. It is rejected if it has paths."""
    return Case([Event(data, **fields)], "invalid_batch" if paths else None, [f"events[0]{path}" for path in paths])


def large(count: int, size: int) -> list[Event]:
    """Events with a string of `size` characters each."""
    return [Event(json.dumps({"s": "x" * size}))] * count


CASES: dict[str, Case] = {
    "minimal": Case(),
    "full": Case([Event(UGLY, UGLY, NEW_YEAR)], source_id="web-1"),
    "names of 255": Case([Event(type="é" * 255)], source="é" * 255, source_id="😀" * 255),
    "source_id empty": Case(source_id=""),
    "source_id of 256": Case(source_id="x" * 256, code="invalid_batch"),
    "source empty": Case(source="", code="invalid_batch"),
    "source of 256": Case(source="é" * 256, code="invalid_batch"),
    "1,000 events": Case([Event(f'{{"n":{n}}}', '{"v":"1"}', NEW_YEAR, f"type-{n}") for n in range(1000)]),
    "0 events": Case([], "invalid_batch"),
    "1,001 events": Case([Event()] * 1001, "invalid_batch"),
    "ugly keys": one(UGLY),
    "order of keys, and repeated ones": one('{"z":1,"a":{"y":1,"x":1,"y":2},"z":3}'),
    "white space": one('\n{\t"a" : [ 1 ,\r\n 2 ] }\n'),
    "numbers": one('{"a":[0,0.0,-0,-0.0,1,1.0,1e5,100000,5e-324,1e-999,9007199254740993,9007199254740993.0]}'),
    "int64 bounds": one('{"a":9223372036854775807,"b":-9223372036854775808}'),
    "metadata null": one(metadata="null"),
    "metadata empty": one(metadata="{}"),
    "doubles": one('{"a":[1.5,-0.0,1e300],"b":{"c":null,"d":true,"e":"é","f":{},"g":[]}}')._replace(as_struct=True),
    "whole numbers as doubles": one('{"a":[0,1,-1,9007199254740992]}')._replace(as_struct=True),
    "1,000 events as doubles": Case([Event(f'{{"n":{n}}}') for n in range(1000)], as_struct=True),
    "NUL in a key of one": one(r'{"a":{"\u0000":1}}', r'.data.a["\u0000"]')._replace(as_struct=True),
    "empty, as either": one("{}")._replace(as_struct=True),
    "100 levels of objects": one(nested(100, '{"a":', "}", "1"), metadata=nested(100, '{"a":', "}", "1")),
    "100 levels of arrays": one(nested(100, "[", "]", "1")),
    "101 levels of objects": one(nested(101, '{"a":', "}", "1"), ".data" + ".a" * 100),
    "101 levels of arrays": one(nested(101, "[", "]", ""), ".data.a" + "[0]" * 99),
    "101 levels of metadata": one("{}", ".metadata" + ".a" * 100, metadata=nested(101, '{"a":', "}", "1")),
    "over 64 bits": one('{"a":[9223372036854775808]}', ".data.a[0]"),
    "under 64 bits": one('{"a":-9223372036854775809}', ".data.a"),
    "long integer": one(f'{{"a":{"1" * 5000}}}', ".data.a"),
    "over 64 bits in metadata": one("{}", ".metadata.a", metadata='{"a":18446744073709551616}'),
    "infinite": one('{"a":1e999}', ".data.a"),
    "infinite in metadata": one("{}", '.metadata["a b"]', metadata='{"a b":-1e999}'),
    "NUL in a key": one(r'{"a\u0000":1}', r'.data["a\u0000"]'),
    "half a pair": one(r'{"a":["\ud800"]}', ".data.a[0]"),
    "half a pair in a key": one(r'{"\udc00":1}', r'.data["\udc00"]'),
    "data an array": one("[]", ".data"),
    "data null": one("null", ".data"),
    "data a string": one('"{}"', ".data"),
    "data missing": one(None, ".data"),
    "metadata an array": one("{}", ".metadata", metadata="[]"),
    "metadata a number": one("{}", ".metadata", metadata="1.5"),
    "type empty": one("{}", ".type", type=""),
    "type of 256": one("{}", ".type", type="é" * 256),
    "type with a NUL": one("{}", type="\0"),
    "time cut to milliseconds": one(time=NEW_YEAR),
    "time before 1970": one(time=("1969-12-31T23:59:59.999999Z", -1, 999_999_000)),
    "1970": one(time=("1970-01-01T00:00:00Z", 0, 0)),
    "year 1": one(time=("0001-01-01T00:00:00Z", -62_135_596_800, 0)),
    "year 9999": one(time=("9999-12-31T23:59:59.999999Z", 253_402_300_799, 999_999_999)),
    "before year 1": one("{}", ".timestamp", time=("0001-01-01T00:00:00+00:01", -62_135_596_860, 0)),
    "after year 9999": one("{}", ".timestamp", time=("9999-12-31T23:59:00-00:01", 253_402_300_800, 0)),
    "many faults in one": one("[]", ".type", type="", metadata="[]"),
    "good and bad": Case(TWO_BAD, "invalid_batch", ["events[1].data", "events[3].data.a"]),
    "150 bad": Case(
        [Event(), *[Event('{"a":1e999}')] * 150], "invalid_batch", [f"events[{n}].data.a" for n in range(1, 101)]
    ),
    "long paths": Case(
        [Event(f'{{"{"k" * 5000}":1e999}}')] * 9, "invalid_batch", [f"events[{n}].data.{'k' * 984}…" for n in range(9)]
    ),
    "paths that take room in trailers": Case(
        [Event(f'{{"{"%" * 5000}":1e999}}')] * 9,
        "invalid_batch",
        [f'events[{n}].data["{"%" * 983}…' for n in range(9)],
    ),
    "strict, by name": Case(TWO_BAD, "invalid_batch", ["events[1].data", "events[3].data.a"], handling=1),
    "lenient, all good": Case(TWO_BAD[::2], handling=pb.HANDLING_LENIENT),
    "lenient, partly good": Case(
        TWO_BAD, paths=["events[1].data", "events[3].data.a"], handling=pb.HANDLING_LENIENT, source_id="7"
    ),
    "lenient, good ones with times": Case(
        [Event("[]"), Event(UGLY, UGLY, NEW_YEAR), Event(type="")],
        paths=["events[0].data", "events[2].type"],
        handling=pb.HANDLING_LENIENT,
    ),
    "lenient, two things wrong with one": Case(
        [
            Event(),
            Event(metadata="3", time=("9999-12-31T23:59:59-00:01", 253_402_300_859, 0)),
        ],
        paths=["events[1].timestamp"],
        handling=pb.HANDLING_LENIENT,
    ),
    "lenient, 150 bad": Case(
        [Event(), *[Event("[]")] * 150],
        paths=[f"events[{n}].data" for n in range(1, 101)],
        handling=pb.HANDLING_LENIENT,
    ),
    "lenient, one too large": Case(
        [*large(1, MIB), Event()], paths=["events[0]"], handling=pb.HANDLING_LENIENT, as_struct=True
    ),
    "lenient, none good": Case([Event("[]")], "invalid_batch", ["events[0].data"], handling=pb.HANDLING_LENIENT),
    "lenient, 0 events": Case([], "invalid_batch", handling=pb.HANDLING_LENIENT),
    "handling bogus": Case(code="invalid_header", handling=7, same_detail=False),
    "handling bogus, and 0 events": Case([], "invalid_header", handling=7, same_detail=False),
    "idempotency key with a space": Case(code="invalid_header", idempotency_key="a b"),
    "idempotency key of 256": Case(code="invalid_header", idempotency_key="x" * 256),
    "idempotency key bad, and 0 events": Case([], "invalid_header", idempotency_key="a b"),
    "idempotency key bad, and over 10 MiB": Case(large(11, MIB - 500), "invalid_header", idempotency_key="a b"),
    "event almost 1 MiB": Case(large(1, MIB - 500), as_struct=True),
    "event over 1 MiB": Case(large(1, MIB), "invalid_batch", ["events[0]"], as_struct=True),
    "batch almost 10 MiB": Case(large(10, MIB - 500)),
    "batch over 10 MiB": Case(large(11, MIB - 500), "payload_too_large", same_detail=False),
    "batch over 32 MiB as BSON": Case([Event(f'{{"a":[{",".join("1" * 4600)}]}}')] * 1000, "payload_too_large"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_parity(client: httpx.Client, channel: grpc.Channel, mongo: MongoClient, key: Json, case: Case) -> None:
    take_stored(mongo, key)
    expected = by_rest(client, case)
    documents = take_stored(mongo, key)
    check_outcome(case, expected, key, documents, to_seconds=True)
    for as_struct in (False, True) if case.as_struct else (False,):
        message = case.message(as_struct)
        for send in (by_unary, by_stream):
            outcome = send(channel, key["key"], message)
            found = take_stored(mongo, key)
            check_outcome(case, outcome, key, found)
            check_same(case, outcome, expected, cut=send is by_unary)
            contents, wanted = ([content_of(item, not as_struct) for item in items] for items in (found, documents))
            assert contents == wanted, (send, as_struct)


def check_outcome(case: Case, outcome: Outcome, key: Json, documents: list[Json], to_seconds: bool = False) -> None:
    """The outcome is that of the case, and the stored documents are those of the outcome."""
    if isinstance(outcome, Rejected):
        assert outcome.code == case.code, outcome
        assert documents == []
        return
    assert case.code is None
    assert [path for path, _ in outcome.rejections] == list(case.paths)
    assert case.paths or len(documents) == len(case.events)
    assert outcome.ids == [str(item["_id"]["id"]) for item in documents]
    assert (outcome.tenant_id, outcome.source) == (key["tenant_id"], case.source)
    for item in documents:
        received_at = item["received_at"]
        assert outcome.received_at == (received_at.replace(microsecond=0) if to_seconds else received_at)


def check_same(case: Case, outcome: Outcome, expected: Outcome, cut: bool) -> None:
    """The outcome over gRPC equals that over REST. If it was `cut`, the last violations may be missing."""
    if isinstance(expected, Stored):
        assert isinstance(outcome, Stored)
        assert outcome.rejections == expected.rejections
        return
    assert isinstance(outcome, Rejected)
    assert [path for path, _ in expected.violations] == list(case.paths)
    assert expected.detail.startswith(f"{case.paths[0]}: " if case.paths else "")
    if not case.paths and outcome.violations:  # an error of the batch itself: only gRPC names its field
        ((field, description),) = outcome.violations
        assert field in pb.EventBatch.DESCRIPTOR.fields_by_name
        assert description == outcome.detail
        expected = expected._replace(violations=outcome.violations)
    if cut:
        count = len(outcome.violations)
        assert bool(count) == bool(expected.violations)
        expected = expected._replace(violations=expected.violations[:count])
    assert outcome == (expected if case.same_detail else expected._replace(detail=outcome.detail))


def test_trailers_hold_the_first_violations(channel: grpc.Channel, key: Json) -> None:
    """They hold as many as fit. A stream has its errors in messages, with the first 100 violations."""
    batch = CASES["150 bad"].message()
    with pytest.raises(grpc.RpcError) as caught:
        stub_of(channel).IngestEvents(pb.IngestEventsRequest(batch=batch), metadata=metadata(key["key"]))
    status = status_from(caught.value)
    cut, full = error_of(status), by_stream(channel, key["key"], batch)
    assert isinstance(full, Rejected)
    assert len(full.violations) == 100
    assert cut == full._replace(violations=full.violations[: len(cut.violations)])
    assert status.ByteSize() > ALMOST * MAX_TRAILER_BYTES
