"""Group commit: what waits at the same time is stored together, and each request still gets what is its own.

The database is held up, or made to fail, by MongoDB's fail points. Set SLUICE_LONG=1 for more failures in a row.
"""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import pytest

from tests.support.group_commit import AT_ONCE, FAILURES, Host, start
from tests.support.grpc_client import Stream, channel_to, code_of, good_batch, reason_of
from tests.support.harness import MongoClient, Server, event
from tests.support.mongod import failing_inserts
from tests.support.pressure import (
    INVALID_BATCH,
    STORED,
    UnaryRequest,
    check_stored,
    codes,
    counted_inserts,
    held_inserts,
    responses_of,
    stored_ids,
)

LONG = "SLUICE_LONG" in os.environ


@pytest.fixture(scope="module", params=["motor", "pymongo"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with ExitStack() as stack:
        yield start(stack, tmp_path_factory.mktemp("host"), "--driver", request.param)


def test_what_waits_at_once_is_one_insert(host: Host) -> None:
    with counted_inserts(host.mongo) as inserts:
        with held_inserts(host.mongo) as under_way:
            sent = host.occupy(host.keys[0], under_way)
            sent += [request for _ in range(25) for key in host.keys for request in host.clients.both(key)]
            host.hold(sent)
            assert under_way() == AT_ONCE
        said = responses_of(sent)
        counts = inserts()
    assert codes(said) == {STORED: AT_ONCE + 150}
    check_stored(host.mongo, sent, said)
    assert sorted(counts) == [*[1] * AT_ONCE, 150]


def test_batches_of_a_stream_are_stored_with_those_of_others(host: Host) -> None:
    (key, other, _) = host.keys
    with (
        channel_to(host.server.grpc) as channel,
        Stream(channel, key["key"]) as stream,
        counted_inserts(host.mongo) as inserts,
    ):
        with held_inserts(host.mongo) as under_way:
            sent = host.occupy(other, under_way)
            for sequence in range(10):
                stream.send(sequence, good_batch([10**9 + 2 * sequence, 10**9 + 2 * sequence + 1]))
            host.hold(sent)
        said = responses_of(sent)
        responses = [stream.receive() for _ in range(10)]
        assert len(inserts()) == AT_ONCE + 1
    check_stored(host.mongo, sent, said)
    stored = stored_ids(host.mongo, key)
    for sequence, response in enumerate(responses):
        assert response.sequence == sequence
        marks = (10**9 + 2 * sequence, 10**9 + 2 * sequence + 1)
        assert list(response.receipt.event_ids) == [stored[mark] for mark in marks]


def test_a_lone_request_is_one_insert_at_once(host: Host) -> None:
    (key, *_) = host.keys
    took: list[float] = []
    direct: list[float] = []
    things = host.mongo.get_database("direct", write_concern=None).things
    with counted_inserts(host.mongo) as inserts:
        for _ in range(15):
            for send in (host.clients.post, host.clients.call):
                begun = time.monotonic()
                assert send(key).response().code == STORED
                took.append(time.monotonic() - begun)
            begun = time.monotonic()
            things.with_options(write_concern=None).insert_one({})
            direct.append(time.monotonic() - begun)
        assert inserts() == [1] * 30
    assert min(took) < min(direct) + 0.025  # the quickest of each waited for no other process


def refuse_poison(mongo: MongoClient) -> None:
    """Make the database refuse events with `poison` in their data."""
    mongo.sluice.command("collMod", "events", validator={"data.poison": {"$exists": False}})


@pytest.fixture
def refused_poison(host: Host) -> Iterator[None]:
    refuse_poison(host.mongo)
    yield
    host.mongo.sluice.command("collMod", "events", validator={})


@pytest.mark.usefixtures("refused_poison")
def test_a_document_that_the_database_rejects_hurts_no_other(host: Host) -> None:
    secret = uuid.uuid4().hex
    (key, other, third) = host.keys
    with (
        channel_to(host.server.grpc) as channel,
        Stream(channel, key["key"]) as stream,
        counted_inserts(host.mongo) as inserts,
    ):
        with held_inserts(host.mongo) as under_way:
            first = host.occupy(third, under_way)
            good, bad = [], []
            for _ in range(5):
                good += [*host.clients.both(other), *host.clients.both(key)]
                bad += host.clients.both(other, poison=secret)
            for sequence, poison in enumerate([{}, {"poison": secret}, {}]):
                batch = good_batch([10**9 + 100 + sequence])
                if poison:
                    batch.events[0].data_json = b'{"poison": "%s"}' % secret.encode()
                stream.send(sequence, batch)
            host.hold(good)
        said, good_said, bad_said = responses_of(first), responses_of(good), responses_of(bad)
        responses = [stream.receive() for _ in range(3)]
        assert len(inserts()) == AT_ONCE + 1
    assert codes(said) == {STORED: AT_ONCE}
    assert codes(good_said) == {STORED: 20}
    assert codes(bad_said) == {INVALID_BATCH: 10}
    check_stored(host.mongo, first + good + bad, said + good_said + bad_said)
    assert [response.WhichOneof("outcome") for response in responses] == ["receipt", "error", "receipt"]
    assert responses[1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert reason_of(responses[1].error) == "INVALID_BATCH"
    for text in [response.text for response in bad_said] + [str(responses[1].error)]:
        assert "Rejected by the validator of the collection" in text
        assert not any(word in text.lower() for word in (secret, "poison", "121", "mongo", "write"))
    assert secret not in host.server.stderr()


@pytest.mark.usefixtures("refused_poison")
def test_a_batch_with_one_rejected_document_is_not_acknowledged(host: Host) -> None:
    (key, *_) = host.keys
    with host.server.client(key["key"]) as client:
        events = [event(), event(data={"poison": 1}), event()]
        response = client.post("/api/v1/events", json={"source": "pressure", "events": events})
    assert (response.status_code, response.json()["code"]) == (400, INVALID_BATCH)
    assert [item["path"] for item in response.json()["errors"]] == ["events[1]"]


@pytest.mark.parametrize("times", [1, 2, 4] if LONG else [2])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_write_is_tried_again_until_it_is_certain(host: Host, failure: str, times: int) -> None:
    with counted_inserts(host.mongo) as inserts, failing_inserts(host.mongo, times, **FAILURES[failure]):
        begun = time.monotonic()
        sent = host.clients.both(host.keys[0])
        said = responses_of(sent)
        assert time.monotonic() - begun < 10
        assert sum(inserts()) == 2
    assert codes(said) == {STORED: 2}
    check_stored(host.mongo, sent, said)


def test_many_requests_survive_a_failure_together(host: Host) -> None:
    for failure in ("WriteConcernTimeout", "NotWritablePrimary", "closed"):
        with failing_inserts(host.mongo, 4, **FAILURES[failure]):
            sent = [request for _ in range(10) for key in host.keys for request in host.clients.both(key)]
            said = responses_of(sent)
        assert codes(said) == {STORED: 60}
        check_stored(host.mongo, sent, said)


def test_clients_that_go_while_they_wait_hurt_no_other(host: Host) -> None:
    (key, other, gone) = host.keys
    with held_inserts(host.mongo) as under_way:
        leaving = host.occupy(gone, under_way)  # these are in flight when their clients disconnect
        good = []
        for _ in range(10):
            leaving += host.clients.both(gone)
            good += [*host.clients.both(key), *host.clients.both(other)]
        hasty = [host.clients.call(gone, timeout_s=0.2) for _ in range(5)]
        host.hold(good)
        for request in leaving:
            request.abandon()
        for request in hasty:
            assert isinstance(request, UnaryRequest)
            with pytest.raises(grpc.RpcError) as caught:
                request.call.result()
            assert code_of(caught.value) == grpc.StatusCode.DEADLINE_EXCEEDED
        host.hold(good)
        good += [*host.clients.both(key), *host.clients.both(other)]
        host.hold(good)
    said = responses_of(good)
    assert codes(said) == {STORED: 44}
    check_stored(host.mongo, good, said)
    assert set(stored_ids(host.mongo, gone)) >= {request.mark for request in leaving[:2]}  # they were in flight
    assert not {request.mark for request in hasty} & set(stored_ids(host.mongo, gone))  # they were not
    assert_nothing_odd(host.server)


def assert_nothing_odd(server: Server) -> None:
    """No internal error in the log."""
    for line in server.stderr().splitlines():
        assert "internal error" not in line.lower(), line
