"""Which batches are the same under a key: those of equal values, however they are written."""

import pytest

from tests.support.harness import Json, MongoClient
from tests.support.idempotency import CONFLICT, TenantClient, expect_receipt, stored_ids

EVENT = '{"type":"a","data":{"n":1,"o":{"b":[1,{"d":1.5,"c":true}],"a":"é"}}}'

EQUAL = {
    "order of keys": (EVENT, '{"data":{"o":{"a":"é","b":[1,{"c":true,"d":1.5}]},"n":1},"type":"a"}'),
    "white space and escapes": (EVENT, EVENT.replace(",", " ,\n").replace("é", "\\u00e9")),
    "repeated keys": (EVENT, EVENT.replace('"n":1', '"n":2,"n":1')),
    "spelling of doubles": ('{"type":"a","data":{"n":[1.5,100.0,0.0]}}', '{"type":"a","data":{"n":[15e-1,1E2,0e5]}}'),
    "minus zero as an integer": ('{"type":"a","data":{"n":0}}', '{"type":"a","data":{"n":-0}}'),
    "metadata null": (EVENT, '{"metadata":null,' + EVENT[1:]),
    "timestamp null": (EVENT, '{"timestamp":null,' + EVENT[1:]),
    "spelling of a time": (
        '{"timestamp":"2026-03-01T12:00:00.123Z",' + EVENT[1:],
        '{"timestamp":"20260301T140000.123999+0200",' + EVENT[1:],
    ),
    "what only the slow path reads": (EVENT, EVENT.replace("1.5", "1.5" + "0" * 400)),
}

OTHER = {
    "another value": (EVENT, EVENT.replace("é", "è")),
    "a double for an integer": (EVENT, EVENT.replace('"n":1', '"n":1.0')),
    "a string for an integer": (EVENT, EVENT.replace('"n":1', '"n":"1"')),
    "true for 1": (EVENT, EVENT.replace("true", "1")),
    "the sign of zero": ('{"type":"a","data":{"n":0.0}}', '{"type":"a","data":{"n":-0.0}}'),
    "the last of 64 bits": (
        '{"type":"a","data":{"n":9223372036854775807}}',
        '{"type":"a","data":{"n":9223372036854775806}}',
    ),
    "the last bit of a double": ('{"type":"a","data":{"n":0.1}}', '{"type":"a","data":{"n":0.10000000000000002}}'),
    "null for nothing": (EVENT, EVENT.replace('"n":1', '"n":1,"m":null')),
    "the order of a list": ('{"type":"a","data":{"n":[1,2]}}', '{"type":"a","data":{"n":[2,1]}}'),
    "another type": (EVENT, EVENT.replace('"a",', '"b",')),
    "metadata empty": (EVENT, '{"metadata":{},' + EVENT[1:]),
    "metadata for data": ('{"type":"a","data":{"n":1},"metadata":{}}', '{"type":"a","data":{},"metadata":{"n":1}}'),
    "a time for none": (EVENT, '{"timestamp":"2026-03-01",' + EVENT[1:]),
    "a millisecond": (
        '{"timestamp":"2026-03-01T12:00:00Z",' + EVENT[1:],
        '{"timestamp":"2026-03-01T12:00:00.001Z",' + EVENT[1:],
    ),
    "one more event": (EVENT, f"{EVENT},{EVENT}"),
    "one event less": (f"{EVENT},{EVENT}", EVENT),
    "the order of events": (f'{EVENT},{{"type":"b","data":{{}}}}', f'{{"type":"b","data":{{}}}},{EVENT}'),
}


def text_of(events: str, envelope: str = '"source":"s"') -> str:
    return f'{{{envelope},"events":[{events}]}}'


@pytest.mark.parametrize(("first", "second"), EQUAL.values(), ids=EQUAL)
def test_equal_values_are_the_same_batch(
    tenant: TenantClient, mongo: MongoClient, key: Json, first: str, second: str
) -> None:
    receipt = expect_receipt(tenant.rest(text_of(first), "a"), replayed=False)
    assert expect_receipt(tenant.rest(text_of(second), "a"), replayed=True) == receipt
    assert stored_ids(mongo, key) == receipt.ids


@pytest.mark.parametrize(("first", "second"), OTHER.values(), ids=OTHER)
def test_other_values_are_another_batch(
    tenant: TenantClient, mongo: MongoClient, key: Json, first: str, second: str
) -> None:
    receipt = expect_receipt(tenant.rest(text_of(first), "a"), replayed=False)
    assert tenant.rest(text_of(second), "a") == CONFLICT
    assert expect_receipt(tenant.rest(text_of(first), "a"), replayed=True) == receipt
    assert stored_ids(mongo, key) == receipt.ids


ENVELOPES = {
    "source": '"source":"t"',
    "source_id": '"source":"s","source_id":"1"',
    "empty": '"source":"s","source_id":""',
}


@pytest.mark.parametrize("envelope", ENVELOPES.values(), ids=ENVELOPES)
def test_another_source_is_another_batch(tenant: TenantClient, envelope: str) -> None:
    expect_receipt(tenant.rest(text_of(EVENT), "a"), replayed=False)
    assert tenant.rest(text_of(EVENT, envelope), "a") == CONFLICT
    expect_receipt(tenant.rest(text_of(EVENT, '"source":"s","source_id":null'), "a"), replayed=True)
