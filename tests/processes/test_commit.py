"""Group commit: what waits at the same time is stored together, and each request still gets what is its own.

The database is held up, or made to fail, by MongoDB's fail points. Set SLUICE_LONG=1 for every way to fail for longer
than a request lasts.
"""

import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

from tests.processes.test_grpc_processes import assert_no_faults
from tests.support.grpc_client import Stream, channel_to, code_of, good_batch, reason_of
from tests.support.harness import Json, MongoClient, Server, event, wait_until
from tests.support.mongod import Mongod, failing_inserts
from tests.support.pressure import (
    INTERNAL,
    STORED,
    UNAVAILABLE,
    Called,
    Said,
    Senders,
    Sent,
    answers,
    check_stored,
    codes,
    counted_inserts,
    held_inserts,
    stored_ids,
    wait_until_quiet,
)

LONG = "SLUICE_LONG" in os.environ

AT_ONCE = 2
"""Inserts that a worker has under way at most."""

NOT_WRITABLE_PRIMARY = 10107


class Host(NamedTuple):
    """A server with one worker, the database that it uses, and tenants' keys."""

    server: Server
    mongo: MongoClient
    senders: Senders
    keys: list[Json]

    def hold(self, sent: list[Sent]) -> None:
        """Wait until all that was sent waits in the worker."""
        assert sent
        wait_until_quiet(self.server.worker_pids()[0])


def start(stack: ExitStack, path: Path, *options: str) -> Host:
    """Start one."""
    mongod = stack.enter_context(Mongod(path / "db"))
    mongo = stack.enter_context(mongod.client())
    server = stack.enter_context(Server(path / "data", "--mongodb-url", mongod.url, *options))
    with ThreadPoolExecutor(3) as threads:
        keys = list(threads.map(lambda number: server.create_key(f"t{number}", "--rate-limit", "0"), range(3)))
    return Host(server, mongo, stack.enter_context(Senders(server)), keys)


@pytest.fixture(scope="module", params=["motor", "pymongo"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with ExitStack() as stack:
        yield start(stack, tmp_path_factory.mktemp("host"), "--driver", request.param)


def test_what_waits_at_once_is_one_insert(host: Host) -> None:
    with counted_inserts(host.mongo) as inserts:
        with held_inserts(host.mongo) as under_way:
            sent: list[Sent] = []
            for _ in range(AT_ONCE):  # alone, so that each is an insert of its own
                sent.append(host.senders.post(host.keys[0]))
                wait_until(lambda: under_way() == len(sent), "an insert")
            sent += [request for _ in range(25) for key in host.keys for request in host.senders.both(key)]
            host.hold(sent)
            assert under_way() == AT_ONCE
        said = answers(sent)
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
        with held_inserts(host.mongo):
            sent = host.senders.both(other) + host.senders.both(other)
            host.hold(sent)
            for sequence in range(10):
                stream.send(sequence, good_batch([10**9 + 2 * sequence, 10**9 + 2 * sequence + 1]))
            host.hold(sent)
        said = answers(sent)
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
            for send in (host.senders.post, host.senders.call):
                begun = time.monotonic()
                assert send(key).answer().code == STORED
                took.append(time.monotonic() - begun)
            begun = time.monotonic()
            things.with_options(write_concern=None).insert_one({})
            direct.append(time.monotonic() - begun)
        assert inserts() == [1] * 30
    assert min(took) < min(direct) + 0.025  # the quickest waited for nobody, other processes neither


def refuse_poison(mongo: MongoClient) -> None:
    """Let the database refuse events that Sluice would store."""
    mongo.sluice.command("collMod", "events", validator={"data.poison": {"$exists": False}})


@pytest.fixture
def refused_poison(host: Host) -> Iterator[None]:
    refuse_poison(host.mongo)
    yield
    host.mongo.sluice.command("collMod", "events", validator={})


@pytest.mark.usefixtures("refused_poison")
def test_a_document_that_the_database_refuses_hurts_nobody_else(host: Host) -> None:
    secret = uuid.uuid4().hex
    (key, other, third) = host.keys
    with (
        channel_to(host.server.grpc) as channel,
        Stream(channel, key["key"]) as stream,
        counted_inserts(host.mongo) as inserts,
    ):
        with held_inserts(host.mongo):
            first = host.senders.both(third) + host.senders.both(third)
            host.hold(first)
            good, bad = [], []
            for _ in range(5):
                good += [*host.senders.both(other), *host.senders.both(key)]
                bad += host.senders.both(other, poison=secret)
            for sequence, poison in enumerate([{}, {"poison": secret}, {}]):
                batch = good_batch([10**9 + 100 + sequence])
                if poison:
                    batch.events[0].data_json = b'{"poison": "%s"}' % secret.encode()
                stream.send(sequence, batch)
            host.hold(good)
        said, good_said, bad_said = answers(first), answers(good), answers(bad)
        responses = [stream.receive() for _ in range(3)]
        assert len(inserts()) == AT_ONCE + 1
    assert codes(said) == {STORED: 4}
    assert codes(good_said) == {STORED: 20}
    assert codes(bad_said) == {INTERNAL: 10}
    check_stored(host.mongo, first + good + bad, said + good_said + bad_said)
    assert [response.WhichOneof("outcome") for response in responses] == ["receipt", "error", "receipt"]
    assert responses[1].error.code == grpc.StatusCode.INTERNAL.value[0]
    assert reason_of(responses[1].error) == "INTERNAL"
    for text in [answer.text for answer in bad_said] + [str(responses[1].error)]:
        assert not any(word in text.lower() for word in (secret, "poison", "validat", "121", "mongo", "write"))
    assert secret not in host.server.stderr()


@pytest.mark.usefixtures("refused_poison")
def test_a_batch_with_one_refused_document_is_not_acknowledged(host: Host) -> None:
    (key, *_) = host.keys
    with host.server.client(key["key"]) as client:
        events = [event(), event(data={"poison": 1}), event()]
        answer = client.post("/api/v1/events", json={"source": "pressure", "events": events})
    assert (answer.status_code, answer.json()["code"]) == (500, INTERNAL)


def write_concern_error(code: int) -> Json:
    """A write that is carried out, but of which nobody knows whether a majority has it."""
    return {"writeConcernError": {"code": code, "errmsg": "no majority"}}


FAILURES: dict[str, Json] = {
    "WriteConcernTimeout": write_concern_error(64),
    "ShutdownInProgress-stored": write_concern_error(91),
    "InterruptedDueToReplStateChange-stored": write_concern_error(11602),
    "ShutdownInProgress": {"errorCode": 91},
    "PrimarySteppedDown": {"errorCode": 189},
    "NotWritablePrimary": {"errorCode": NOT_WRITABLE_PRIMARY},
    "InterruptedAtShutdown": {"errorCode": 11600},
    "InterruptedDueToReplStateChange": {"errorCode": 11602},
    "closed": {"closeConnection": True},
    "blocked": {"blockConnection": True, "blockTimeMS": 500},
    "blocked-closed": {"blockConnection": True, "blockTimeMS": 300, "closeConnection": True},
}
"""What may befall an insert, for `failCommand`."""


@pytest.mark.parametrize("times", [1, 2, 4] if LONG else [2])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_write_is_tried_again_until_it_is_certain(host: Host, failure: str, times: int) -> None:
    with counted_inserts(host.mongo) as inserts, failing_inserts(host.mongo, times, **FAILURES[failure]):
        begun = time.monotonic()
        sent = host.senders.both(host.keys[0])
        said = answers(sent)
        assert time.monotonic() - begun < 10
        assert sum(inserts()) == 2
    assert codes(said) == {STORED: 2}
    check_stored(host.mongo, sent, said)


def test_many_requests_survive_a_failure_together(host: Host) -> None:
    for failure in ("WriteConcernTimeout", "NotWritablePrimary", "closed"):
        with failing_inserts(host.mongo, 4, **FAILURES[failure]):
            sent = [request for _ in range(10) for key in host.keys for request in host.senders.both(key)]
            said = answers(sent)
        assert codes(said) == {STORED: 60}
        check_stored(host.mongo, sent, said)


def test_callers_who_go_while_they_wait_hurt_nobody_else(host: Host) -> None:
    (key, other, gone) = host.keys
    with held_inserts(host.mongo) as under_way:
        leaving = host.senders.both(gone)  # these two are under way when their callers go
        host.hold(leaving)
        assert under_way() == AT_ONCE
        good = []
        for _ in range(10):
            leaving += host.senders.both(gone)
            good += [*host.senders.both(key), *host.senders.both(other)]
        hasty = [host.senders.call(gone, timeout_s=0.2) for _ in range(5)]
        host.hold(good)
        for request in leaving:
            request.leave()
        for request in hasty:
            assert isinstance(request, Called)
            with pytest.raises(grpc.RpcError) as caught:
                request.call.result()
            assert code_of(caught.value) == grpc.StatusCode.DEADLINE_EXCEEDED
        host.hold(good)
        good += [*host.senders.both(key), *host.senders.both(other)]
        host.hold(good)
    said = answers(good)
    assert codes(said) == {STORED: 44}
    check_stored(host.mongo, good, said)
    assert set(stored_ids(host.mongo, gone)) >= {request.mark for request in leaving[:2]}  # they were under way
    assert not {request.mark for request in hasty} & set(stored_ids(host.mongo, gone))  # they were not
    assert_nothing_odd(host.server)


def assert_nothing_odd(server: Server) -> None:
    """No fault in the log but for the documents that the database refused."""
    for line in server.stderr().splitlines():
        assert "internal error" not in line.lower() or "DocumentsRefused" in line, line


HELD = "held"

LASTING = [HELD, "WriteConcernTimeout", *(["NotWritablePrimary", "closed"] if LONG else [])]
"""What lasts for longer than a request: an insert that never ends, or one that fails in a way of FAILURES."""


class Lasted(NamedTuple):
    """A failure that lasted, on a database of its own."""

    failure: str
    host: Host
    sent: list[Sent]
    said: list[Said]
    took: list[float]


def outlast(stack: ExitStack, path: Path, failure: str) -> Lasted:
    """Send requests, two at a time for a second, and wait for their answers."""
    host = start(stack, path)
    lasting = held_inserts(host.mongo) if failure == HELD else failing_inserts(host.mongo, **FAILURES[failure])

    def answered(request: Sent) -> tuple[Said, float]:
        answer = request.answer()
        return answer, time.monotonic() - request.at

    with ThreadPoolExecutor(40) as threads:
        begun = time.monotonic()
        sent, waiting = [], []
        with lasting:
            for number in range(10):
                for request in host.senders.both(host.keys[number % 2]):
                    sent.append(request)
                    waiting.append(threads.submit(answered, request))
                time.sleep(max(0.0, begun + 0.1 * number - time.monotonic()))
            results = [future.result() for future in waiting]
        said = [answer for answer, _ in results]
        took = [seconds for _, seconds in results]
        return Lasted(failure, host, sent, said, took)


def test_what_lasts_longer_than_a_request_is_503(tmp_path: Path) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(len(LASTING)) as threads:
        lasted = list(threads.map(lambda name: outlast(stack, tmp_path / name, name), LASTING))
        for failure, host, sent, said, took in lasted:
            assert codes(said) == {UNAVAILABLE: 20}, failure
            assert 9 < min(took) <= max(took) < 11.5, (failure, took)
            again = [request for key in host.keys for request in host.senders.both(key)]
            again_said = answers(again)
            assert codes(again_said) == {STORED: 6}, failure
            check_stored(host.mongo, sent + again, said + again_said)
            outcomes = Counter(answer.outcome for answer in said)
            assert outcomes["unknown"] >= AT_ONCE  # those that were under way
            assert_no_faults(host.server)
