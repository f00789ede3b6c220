"""A batch sent again under its key: one set of events, one receipt, over every protocol."""

import secrets
import string
import uuid
from collections.abc import Callable
from itertools import chain

import bson
import pytest
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import Stream, metadata, stub_of
from tests.support.harness import Json, MongoClient, Server, batch, event
from tests.support.idempotency import (
    CONFLICT,
    EVENTS,
    PROTOCOLS,
    Receipt,
    TenantClient,
    check_one_receipt,
    expect_receipt,
    message_of,
    new_key,
    records,
    result_of_rest,
    result_of_stream,
    stored,
    stored_ids,
)

VISIBLE = string.ascii_letters + string.digits + string.punctuation


# --- the same batch


@pytest.mark.parametrize("first", PROTOCOLS.values(), ids=PROTOCOLS)
def test_a_repeat_gets_the_same_receipt_over_every_protocol(
    tenant: TenantClient, mongo: MongoClient, key: Json, first: Callable[..., Receipt | str]
) -> None:
    name = new_key()
    full = event(timestamp="2026-03-01T14:00:00.123+02:00", metadata={"sdk": "1.2", "n": [1, 1.0, None]})
    sent = {"source": "etl", "source_id": "7", "events": [full, event(1), event(2, metadata=None)]}
    receipt = expect_receipt(first(tenant, sent, name), replayed=False)
    before = stored(mongo, key)
    for send in (*PROTOCOLS.values(), first):
        assert expect_receipt(send(tenant, sent, name), replayed=True) == receipt
    assert (len(receipt.ids), receipt.tenant_id, receipt.source) == (3, key["tenant_id"], "etl")
    assert stored(mongo, key) == before
    assert [str(item["_id"]["id"]) for item in before] == receipt.ids == sorted(receipt.ids)
    assert {item["received_at"].replace(microsecond=0) for item in before} == {receipt.received_at}
    assert len(records(mongo, key)) == 1


def test_received_at_is_the_same_to_the_millisecond(tenant: TenantClient) -> None:
    request = pb.IngestEventsRequest(batch=message_of(batch(2), new_key()))
    ingest = stub_of(tenant.channel).IngestEvents
    first, second = (ingest(request, metadata=metadata(tenant.secret)).receipt for _ in range(2))
    assert (first.replayed, second.replayed) == (False, True)
    second.replayed = False
    assert first == second


def test_a_thousand_events(tenant: TenantClient, mongo: MongoClient, key: Json) -> None:
    name, sent = new_key(), batch(1000)
    before = expect_receipt(tenant.rest(batch(), None), replayed=False).ids
    receipts = [
        expect_receipt(send(tenant, sent, name), replayed=index > 0) for index, send in enumerate(PROTOCOLS.values())
    ]
    after = expect_receipt(tenant.unary(batch(), None), replayed=False).ids
    assert receipts[0] == receipts[1] == receipts[2]
    ids = [*before, *receipts[0].ids, *after]
    assert len(ids) == len(set(ids)) == 1002
    assert ids == sorted(ids) == stored_ids(mongo, key)
    assert {uuid.UUID(item).version for item in ids} == {7}
    assert [item["data"]["index"] for item in stored(mongo, key)[1:-1]] == list(range(1000))


def test_repeats_in_one_stream(tenant: TenantClient, mongo: MongoClient, key: Json) -> None:
    """They are in flight at the same time, so any of them may be the first to store its record."""
    with Stream(tenant.channel, tenant.secret) as stream:
        for sequence in range(40):
            stream.send(sequence, message_of(batch(5), "a"))
        stream.half_close()
        responses = list(stream.call)
    assert [response.sequence for response in responses] == list(range(40))
    check_one_receipt([result_of_stream(response) for response in responses], stored_ids(mongo, key))


def test_without_a_key_nothing_is_taken_for_a_repeat(tenant: TenantClient, mongo: MongoClient, key: Json) -> None:
    sent = batch(2)
    ids = [
        expect_receipt(send(tenant, sent, None), replayed=False).ids
        for send in (*PROTOCOLS.values(), *PROTOCOLS.values())
    ]
    assert sorted(chain(*ids)) == stored_ids(mongo, key)
    assert len(stored(mongo, key)) == 12
    assert records(mongo, key) == []


def test_a_conflict_says_what_to_do_over_every_protocol(tenant: TenantClient, mongo: MongoClient, key: Json) -> None:
    receipt = expect_receipt(tenant.unary(batch(2), "a"), replayed=False)
    assert [send(tenant, batch(3), "a") for send in PROTOCOLS.values()] == [CONFLICT] * 3
    response = tenant.post(batch(3), "a")
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "Retry-After" not in response.headers
    assert "under a new key" in response.json()["detail"]
    assert stored_ids(mongo, key) == receipt.ids


# --- handling, and what is rejected

BAD: tuple[Json, ...] = (
    {"type": "a", "data": []},
    {"type": "a", "data": {"x\0": 1}},  # only the encoder notices this
    {"type": "", "data": {}},
)


def test_lenient_handling_gets_the_same_receipt_and_errors(tenant: TenantClient, mongo: MongoClient, key: Json) -> None:
    sent = {"source": "s", "events": [BAD[0], event(1), BAD[1], BAD[2], event(4)]}
    receipt = expect_receipt(tenant.rest(sent, "a", lenient=True), replayed=False)
    assert [path for path, _ in receipt.errors] == ["events[0].data", 'events[2].data["x\\u0000"]', "events[3].type"]
    assert (len(receipt.ids), stored_ids(mongo, key)) == (2, receipt.ids)
    for send in PROTOCOLS.values():
        assert expect_receipt(send(tenant, sent, "a", lenient=True), replayed=True) == receipt
    response = tenant.post(sent, "a", lenient=True)
    assert response.headers["Preference-Applied"] == "handling=lenient"
    corrected = {"source": "s", "events": [event(0), *sent["events"][1:]]}
    without = {"source": "s", "events": [event(1), event(4)]}
    assert [tenant.rest(other, "a", lenient=True) for other in (corrected, without)] == [CONFLICT] * 2
    assert stored_ids(mongo, key) == receipt.ids


def test_an_event_with_two_errors_is_the_same_over_every_protocol(tenant: TenantClient) -> None:
    good_one, bad_one = event(1), {**event(2), "metadata": 3}
    sent = {"source": "s", "events": [good_one, {**bad_one, "timestamp": "9999-12-31T23:59:59-00:01"}]}
    receipt = expect_receipt(tenant.rest(sent, "a", lenient=True), replayed=False)
    message = message_of({"source": "s", "events": [good_one, bad_one]}, "a", lenient=True)
    message.events[1].timestamp.seconds = 253_402_300_859
    with Stream(tenant.channel, tenant.secret) as stream:
        stream.send(1, message)
        assert expect_receipt(result_of_stream(stream.receive()), replayed=True) == receipt


@pytest.mark.parametrize("lenient", [False, True])
def test_another_handling_is_a_conflict(tenant: TenantClient, lenient: bool) -> None:
    expect_receipt(tenant.rest(batch(2), "a", lenient), replayed=False)
    assert [send(tenant, batch(2), "a", not lenient) for send in PROTOCOLS.values()] == [CONFLICT] * 3
    expect_receipt(tenant.stream(batch(2), "a", lenient), replayed=True)


def test_strict_by_name_is_strict(tenant: TenantClient) -> None:
    expect_receipt(tenant.unary(batch(2), "a"), replayed=False)
    response = tenant.client.post(EVENTS, json=batch(2), headers={"Idempotency-Key": "a", "Prefer": "handling=strict"})
    expect_receipt(result_of_rest(response), replayed=True)


@pytest.mark.parametrize("send", PROTOCOLS.values(), ids=PROTOCOLS)
def test_a_rejected_batch_does_not_use_its_key(
    tenant: TenantClient, mongo: MongoClient, key: Json, send: Callable[..., Receipt | str]
) -> None:
    bad = {"source": "s", "events": [event(), BAD[1]]}
    none_good = {"source": "s", "events": list(BAD)}
    large = {"source": "s", "events": [{"type": "a", "data": {"a": [1] * 4600}}] * 1000}
    assert send(tenant, bad, "a") == "invalid_batch"
    assert send(tenant, none_good, "a", lenient=True) == "invalid_batch"
    assert send(tenant, large, "a") == "payload_too_large"
    assert records(mongo, key) == []
    receipt = expect_receipt(send(tenant, batch(2), "a"), replayed=False)
    assert send(tenant, bad, "a") == "invalid_batch"  # what is wrong with the batch comes first
    assert stored_ids(mongo, key) == receipt.ids


# --- whose key it is


def test_tenants_have_name_spaces_of_their_own_and_keys_of_one_share_it(server: Server, mongo: MongoClient) -> None:
    tenant, other = f"one-{new_key()}", f"two-{new_key()}"
    keys = [server.create_key(name, "--rate-limit", "0") for name in (tenant, tenant, other)]
    with (
        TenantClient(server, keys[0]) as one,
        TenantClient(server, keys[1]) as two,
        TenantClient(server, keys[2]) as stranger,
    ):
        receipt = expect_receipt(one.rest(batch(2), "a"), replayed=False)
        assert expect_receipt(two.unary(batch(2), "a"), replayed=True) == receipt
        assert two.rest(batch(3), "a") == CONFLICT
        theirs = expect_receipt(stranger.unary(batch(3), "a"), replayed=False)
        assert expect_receipt(stranger.rest(batch(3), "a"), replayed=True) == theirs
        assert stranger.rest(batch(2), "a") == CONFLICT
    assert (stored_ids(mongo, keys[0]), stored_ids(mongo, keys[2])) == (receipt.ids, theirs.ids)


def test_long_keys_that_differ_in_a_character(tenant: TenantClient, mongo: MongoClient, key: Json) -> None:
    most = "".join(secrets.choice(VISIBLE) for _ in range(254))
    names = [most + "a", most + "b", most, most + "A"]
    receipts = [expect_receipt(tenant.rest(batch(1), name), replayed=False) for name in names]
    assert [expect_receipt(tenant.unary(batch(1), name), replayed=True) for name in names] == receipts
    assert stored_ids(mongo, key) == sorted(item.ids[0] for item in receipts)


def test_a_record_holds_no_key_and_no_event(tenant: TenantClient, mongo: MongoClient, key: Json) -> None:
    name, content = "the-secret-key", "the-secret-content"
    sent = {"source": "the-secret-source", "events": [{"type": "the-secret-type", "data": {"a": content}}]}
    receipt = expect_receipt(tenant.rest(sent, name), replayed=False)
    (record,) = records(mongo, key)
    assert set(record) == {"_id", "tenant_id", "fingerprint", "received_at", "random"}
    assert (len(record["_id"]), len(record["fingerprint"])) == (32, 32)
    assert record["received_at"].replace(microsecond=0) == receipt.received_at
    assert b"secret" not in bson.encode(record, codec_options=mongo.codec_options)


# --- crashes


def test_what_is_missing_of_a_batch_is_filled_in(tenant: TenantClient, mongo: MongoClient, key: Json) -> None:
    sent = batch(1000)
    receipt = expect_receipt(tenant.unary(sent, "a"), replayed=False)
    before = stored(mongo, key)
    for gone in (before[::3], before[:1], before[400:], before):
        mongo.sluice.events.delete_many({"_id": {"$in": [item["_id"] for item in gone]}})
        assert expect_receipt(tenant.rest(sent, "a"), replayed=True) == receipt
        assert stored(mongo, key) == before
