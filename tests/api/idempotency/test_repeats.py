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
    WAYS,
    Answer,
    Caller,
    answer_of,
    answer_of_response,
    claims,
    good,
    message_of,
    new_key,
    one_receipt,
    stored,
    stored_ids,
)

VISIBLE = string.ascii_letters + string.digits + string.punctuation


# --- the same batch


@pytest.mark.parametrize("first", WAYS.values(), ids=WAYS)
def test_a_repeat_gets_the_same_receipt_over_every_protocol(
    caller: Caller, mongo: MongoClient, key: Json, first: Callable[..., Answer | str]
) -> None:
    name = new_key()
    full = event(timestamp="2026-03-01T14:00:00.123+02:00", metadata={"sdk": "1.2", "n": [1, 1.0, None]})
    sent = {"source": "etl", "source_id": "7", "events": [full, event(1), event(2, metadata=None)]}
    receipt = good(first(caller, sent, name), replayed=False)
    before = stored(mongo, key)
    for way in (*WAYS.values(), first):
        assert good(way(caller, sent, name), replayed=True) == receipt
    assert (len(receipt.ids), receipt.tenant_id, receipt.source) == (3, key["tenant_id"], "etl")
    assert stored(mongo, key) == before
    assert [str(item["_id"]) for item in before] == receipt.ids == sorted(receipt.ids)
    assert {item["received_at"].replace(microsecond=0) for item in before} == {receipt.received_at}
    assert len(claims(mongo, key)) == 1


def test_received_at_is_the_same_to_the_millisecond(caller: Caller) -> None:
    request = pb.IngestEventsRequest(batch=message_of(batch(2), new_key()))
    ingest = stub_of(caller.channel).IngestEvents
    first, second = (ingest(request, metadata=metadata(caller.secret)).receipt for _ in range(2))
    assert (first.replayed, second.replayed) == (False, True)
    second.replayed = False
    assert first == second


def test_a_thousand_events(caller: Caller, mongo: MongoClient, key: Json) -> None:
    name, sent = new_key(), batch(1000)
    before = good(caller.rest(batch(), None), replayed=False).ids
    receipts = [good(way(caller, sent, name), replayed=index > 0) for index, way in enumerate(WAYS.values())]
    after = good(caller.unary(batch(), None), replayed=False).ids
    assert receipts[0] == receipts[1] == receipts[2]
    ids = [*before, *receipts[0].ids, *after]
    assert len(ids) == len(set(ids)) == 1002
    assert ids == sorted(ids) == stored_ids(mongo, key)
    assert {uuid.UUID(item).version for item in ids} == {7}
    assert [item["data"]["index"] for item in stored(mongo, key)[1:-1]] == list(range(1000))


def test_repeats_in_one_stream(caller: Caller, mongo: MongoClient, key: Json) -> None:
    """They are under way at the same time, so any of them may be the first to claim."""
    with Stream(caller.channel, caller.secret) as stream:
        for sequence in range(40):
            stream.send(sequence, message_of(batch(5), "a"))
        stream.half_close()
        responses = list(stream.call)
    assert [response.sequence for response in responses] == list(range(40))
    one_receipt([answer_of_response(response) for response in responses], stored_ids(mongo, key))


def test_without_a_key_nothing_is_taken_for_a_repeat(caller: Caller, mongo: MongoClient, key: Json) -> None:
    sent = batch(2)
    ids = [good(way(caller, sent, None), replayed=False).ids for way in (*WAYS.values(), *WAYS.values())]
    assert sorted(chain(*ids)) == stored_ids(mongo, key)
    assert len(stored(mongo, key)) == 12
    assert claims(mongo, key) == []


def test_a_conflict_says_what_to_do_over_every_protocol(caller: Caller, mongo: MongoClient, key: Json) -> None:
    receipt = good(caller.unary(batch(2), "a"), replayed=False)
    assert [way(caller, batch(3), "a") for way in WAYS.values()] == [CONFLICT] * 3
    answer = caller.post(batch(3), "a")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "Retry-After" not in answer.headers
    assert "under a new key" in answer.json()["detail"]
    assert stored_ids(mongo, key) == receipt.ids


# --- handling, and what is refused

BAD: tuple[Json, ...] = (
    {"type": "a", "data": []},
    {"type": "a", "data": {"x\0": 1}},  # which only the encoder notices
    {"type": "", "data": {}},
)


def test_lenient_handling_gets_the_same_receipt_and_errors(caller: Caller, mongo: MongoClient, key: Json) -> None:
    sent = {"source": "s", "events": [BAD[0], event(1), BAD[1], BAD[2], event(4)]}
    receipt = good(caller.rest(sent, "a", lenient=True), replayed=False)
    assert [path for path, _ in receipt.errors] == ["events[0].data", 'events[2].data["x\\u0000"]', "events[3].type"]
    assert (len(receipt.ids), stored_ids(mongo, key)) == (2, receipt.ids)
    for way in WAYS.values():
        assert good(way(caller, sent, "a", lenient=True), replayed=True) == receipt
    answer = caller.post(sent, "a", lenient=True)
    assert answer.headers["Preference-Applied"] == "handling=lenient"
    corrected = {"source": "s", "events": [event(0), *sent["events"][1:]]}
    without = {"source": "s", "events": [event(1), event(4)]}
    assert [caller.rest(other, "a", lenient=True) for other in (corrected, without)] == [CONFLICT] * 2
    assert stored_ids(mongo, key) == receipt.ids


def test_an_event_with_two_faults_is_the_same_over_every_protocol(caller: Caller) -> None:
    good_one, bad_one = event(1), {**event(2), "metadata": 3}
    sent = {"source": "s", "events": [good_one, {**bad_one, "timestamp": "9999-12-31T23:59:59-00:01"}]}
    receipt = good(caller.rest(sent, "a", lenient=True), replayed=False)
    message = message_of({"source": "s", "events": [good_one, bad_one]}, "a", lenient=True)
    message.events[1].timestamp.seconds = 253_402_300_859
    with Stream(caller.channel, caller.secret) as stream:
        stream.send(1, message)
        assert good(answer_of_response(stream.receive()), replayed=True) == receipt


@pytest.mark.parametrize("lenient", [False, True])
def test_another_handling_is_a_conflict(caller: Caller, lenient: bool) -> None:
    good(caller.rest(batch(2), "a", lenient), replayed=False)
    assert [way(caller, batch(2), "a", not lenient) for way in WAYS.values()] == [CONFLICT] * 3
    good(caller.stream(batch(2), "a", lenient), replayed=True)


def test_strict_by_name_is_strict(caller: Caller) -> None:
    good(caller.unary(batch(2), "a"), replayed=False)
    answer = caller.client.post(EVENTS, json=batch(2), headers={"Idempotency-Key": "a", "Prefer": "handling=strict"})
    good(answer_of(answer), replayed=True)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_refused_batch_does_not_claim_its_key(
    caller: Caller, mongo: MongoClient, key: Json, way: Callable[..., Answer | str]
) -> None:
    bad = {"source": "s", "events": [event(), BAD[1]]}
    none_good = {"source": "s", "events": list(BAD)}
    large = {"source": "s", "events": [{"type": "a", "data": {"a": [1] * 4600}}] * 1000}
    assert way(caller, bad, "a") == "invalid_batch"
    assert way(caller, none_good, "a", lenient=True) == "invalid_batch"
    assert way(caller, large, "a") == "payload_too_large"
    assert claims(mongo, key) == []
    receipt = good(way(caller, batch(2), "a"), replayed=False)
    assert way(caller, bad, "a") == "invalid_batch"  # what is wrong with the batch comes first
    assert stored_ids(mongo, key) == receipt.ids


# --- whose key it is


def test_tenants_have_name_spaces_of_their_own_and_keys_of_one_share_it(server: Server, mongo: MongoClient) -> None:
    tenant, other = f"one-{new_key()}", f"two-{new_key()}"
    keys = [server.create_key(name, "--rate-limit", "0") for name in (tenant, tenant, other)]
    with Caller(server, keys[0]) as one, Caller(server, keys[1]) as two, Caller(server, keys[2]) as stranger:
        receipt = good(one.rest(batch(2), "a"), replayed=False)
        assert good(two.unary(batch(2), "a"), replayed=True) == receipt
        assert two.rest(batch(3), "a") == CONFLICT
        theirs = good(stranger.unary(batch(3), "a"), replayed=False)
        assert good(stranger.rest(batch(3), "a"), replayed=True) == theirs
        assert stranger.rest(batch(2), "a") == CONFLICT
    assert (stored_ids(mongo, keys[0]), stored_ids(mongo, keys[2])) == (receipt.ids, theirs.ids)


def test_long_keys_that_differ_in_a_character(caller: Caller, mongo: MongoClient, key: Json) -> None:
    names = ["".join(secrets.choice(VISIBLE) for _ in range(255))]
    names += [names[0][:-1] + chr(ord(names[0][-1]) ^ 1), names[0][:-1], names[0].swapcase()]
    receipts = [good(caller.rest(batch(1), name), replayed=False) for name in names]
    assert [good(caller.unary(batch(1), name), replayed=True) for name in names] == receipts
    assert stored_ids(mongo, key) == sorted(item.ids[0] for item in receipts)


def test_a_claim_holds_no_key_and_no_event(caller: Caller, mongo: MongoClient, key: Json) -> None:
    name, content = "the-secret-key", "the-secret-content"
    sent = {"source": "the-secret-source", "events": [{"type": "the-secret-type", "data": {"a": content}}]}
    receipt = good(caller.rest(sent, name), replayed=False)
    (claim,) = claims(mongo, key)
    assert set(claim) == {"_id", "tenant_id", "fingerprint", "received_at", "random"}
    assert (len(claim["_id"]), len(claim["fingerprint"])) == (32, 32)
    assert claim["received_at"].replace(microsecond=0) == receipt.received_at
    assert b"secret" not in bson.encode(claim, codec_options=mongo.codec_options)


# --- crashes


def test_what_is_missing_of_a_batch_is_filled_in(caller: Caller, mongo: MongoClient, key: Json) -> None:
    sent = batch(1000)
    receipt = good(caller.unary(sent, "a"), replayed=False)
    before = stored(mongo, key)
    for gone in (before[::3], before[:1], before[400:], before):
        mongo.sluice.events.delete_many({"_id": {"$in": [item["_id"] for item in gone]}})
        assert good(caller.rest(sent, "a"), replayed=True) == receipt
        assert stored(mongo, key) == before
