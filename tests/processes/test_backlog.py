"""What a worker has in hand is bounded: requests, events and bytes. Past a bound it refuses at once, or stops reading.

The database is held up by a fail point, so that all that is sent waits; each test sends it more than there is room for.
"""

import http.client
import json
import resource
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import Stream, channel_to, good_batch
from tests.support.harness import Json, MongoClient, Server, batch
from tests.support.logs import assert_no_internal_errors
from tests.support.mongod import Mongod
from tests.support.pressure import (
    EVENTS,
    STORED,
    UNAVAILABLE,
    Called,
    Said,
    Senders,
    answers,
    check_stored,
    codes,
    held_inserts,
    memory_mib,
    rest_said,
    stored_ids,
    wait_until_quiet,
)

MAX_REQUESTS = 2_000
MAX_BYTES = 64 * 1024 * 1024
"""What a worker has in hand at most."""

FILES = 8_192
"""Descriptors for a few thousand connections."""

SLOW_S = 5
"""A body that takes longer gives way where there is no room."""

MAX_MEMORY_MIB = 400
"""Of a worker, whatever it is sent."""

MEMORY_KEPT_MIB = 150
"""How much more a worker may keep after it was under pressure."""

SOON_S = 1.0
"""At once, on a machine that is busy: far less than the hold lasts."""

MEBIBYTE = 1024 * 1024


class Host(NamedTuple):
    """A server with one worker, the database that it uses, and a tenant's key."""

    server: Server
    mongo: MongoClient
    senders: Senders
    key: Json
    worker: int

    def settle(self) -> None:
        """Wait until the worker has taken in what was sent."""
        wait_until_quiet(self.worker)


@pytest.fixture(scope="module", autouse=True)
def files() -> Iterator[None]:
    """Descriptors enough, for the tests and for the servers that they start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(FILES, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def host(files: None, tmp_path: Path) -> Iterator[Host]:  # noqa: ARG001
    with ExitStack() as stack:
        mongod = stack.enter_context(Mongod(tmp_path / "db"))
        mongo = stack.enter_context(mongod.client())
        server = stack.enter_context(Server(tmp_path / "data", "--mongodb-url", mongod.url))
        key = server.create_key("acme", "--rate-limit", "0")
        senders = stack.enter_context(Senders(server, channels=8))
        assert codes(answers(senders.both(key))) == {STORED: 2}
        (worker,) = server.worker_pids()
        before = memory_mib(worker)
        yield Host(server, mongo, senders, key, worker)
        assert server.worker_pids() == [worker]
        assert memory_mib(worker, "VmHWM") < MAX_MEMORY_MIB
        assert memory_mib(worker) < before + MEMORY_KEPT_MIB
        assert_no_internal_errors(server)


def alive_in(server: Server) -> float:
    """How long the worker takes to say that it lives."""
    begun = time.monotonic()
    with server.client() as client:
        assert client.get("/health/live").status_code == 200
    return time.monotonic() - begun


def head(key: Json, size: int) -> bytes:
    """The head of a request with a body of `size` bytes."""
    fields = [f"POST {EVENTS} HTTP/1.1", "Host: sluice", f"X-API-Key: {key['key']}"]
    fields += ["Content-Type: application/json", f"Content-Length: {size}", "", ""]
    return "\r\n".join(fields).encode()


def connect(server: Server) -> socket.socket:
    """A connection to the REST port."""
    name, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((name, int(port)), timeout=30)


def read_answer(connection: socket.socket) -> Said:
    """The answer that comes on a connection."""
    with connection, http.client.HTTPResponse(connection) as response:
        response.begin()
        return rest_said(response.status, response.headers, response.read())


def answered_by_now(sent: Sequence[Called]) -> list[Called]:
    """Those of the gRPC calls that have their answers."""
    return [request for request in sent if request.done()]


def test_more_requests_than_there_is_room_for_are_refused_at_once(host: Host) -> None:
    with held_inserts(host.mongo):
        waiting = [host.senders.call(host.key) for _ in range(MAX_REQUESTS + 300)]
        host.settle()
        refused = answered_by_now(waiting)
        assert len(refused) - 300 in {0, 1}
        last = [host.senders.post(host.key) for _ in range(5)]  # where one place was left
        host.settle()
        begun = time.monotonic()
        late = [request for _ in range(20) for request in host.senders.both(host.key)]
        late_said = answers(late)
        assert time.monotonic() - begun < SOON_S
        assert alive_in(host.server) < SOON_S

        begun = time.monotonic()
        with connect(host.server) as connection:
            connection.sendall(head(host.key, 5_000_000) + b" " * 1_000)  # and nothing more
            said = read_answer(connection)
        assert time.monotonic() - begun < SOON_S
        assert (said.code, said.outcome) == (UNAVAILABLE, "not_stored")
    waiting_said, last_said = answers(waiting), answers(last)
    assert codes(last_said)[STORED] <= 1
    for answer in [*answers(refused), *late_said]:
        assert (answer.code, answer.outcome) == (UNAVAILABLE, "not_stored")
    assert codes(waiting_said) == {STORED: len(waiting) - len(refused), UNAVAILABLE: len(refused)}
    check_stored(host.mongo, [*waiting, *last, *late], waiting_said + last_said + late_said)
    assert codes(answers(host.senders.both(host.key))) == {STORED: 2}


def test_callers_who_are_slow_to_send_take_no_places(host: Host) -> None:
    body = json.dumps(batch()).encode()
    half = len(body) // 2
    with ExitStack() as stack:
        slow = []
        for _ in range(MAX_REQUESTS + 100):
            connection = stack.enter_context(connect(host.server))
            connection.sendall(head(host.key, len(body)) + body[:half])
            slow.append(connection)
        host.settle()
        sent = [request for _ in range(20) for request in host.senders.both(host.key)]
        said = answers(sent)
        assert codes(said) == {STORED: 40}
        check_stored(host.mongo, sent, said)
        assert alive_in(host.server) < SOON_S
        for start in range(0, len(slow), 300):  # no more at once than there is room for
            for connection in slow[start : start + 300]:
                connection.sendall(body[half:])
            assert codes([read_answer(connection) for connection in slow[start : start + 300]]) == {
                STORED: len(slow[start : start + 300])
            }


def test_more_bytes_than_there_is_room_for_are_refused(host: Host) -> None:
    text = "x" * 990_000
    events = [{"type": "large", "data": {"text": text}}] * 5
    body = json.dumps({"source": "pressure", "events": events}).encode()

    def post(_: int) -> Said:
        with connect(host.server) as connection:
            connection.sendall(head(host.key, len(body)) + body)
            return read_answer(connection)

    with ThreadPoolExecutor(20) as threads:
        with held_inserts(host.mongo):
            waiting = [threads.submit(post, number) for number in range(20)]
            host.settle()
            refused = [future.result() for future in waiting if future.done()]
            assert alive_in(host.server) < SOON_S
        said = [future.result() for future in waiting]
    fit = MAX_BYTES // len(body)
    assert {(answer.code, answer.outcome) for answer in refused} == {(UNAVAILABLE, "not_stored")}
    assert 20 - len(refused) in {fit, fit + 1}
    assert codes(said) == {UNAVAILABLE: len(refused), STORED: 20 - len(refused)}
    assert host.mongo.sluice.events.count_documents({"event_type": "large"}) == 5 * (20 - len(refused))


def test_callers_who_send_slowly_give_way_to_others(host: Host) -> None:
    """They hold all the room there is for bodies that are still arriving."""
    size = 10 * MEBIBYTE
    with ExitStack() as stack:
        slow = []
        for sent in [size - 1] * 6 + [4 * MEBIBYTE]:
            connection = stack.enter_context(connect(host.server))
            connection.sendall(head(host.key, size) + b" " * sent)
            slow.append(connection)
        host.settle()
        said = [host.senders.post(host.key).answer()]
        begun = time.monotonic()
        while said[-1].code != STORED:
            assert time.monotonic() - begun < SLOW_S + 2
            assert host.senders.call(host.key).answer().code == STORED  # gRPC does not share this room
            said.append(host.senders.post(host.key).answer())
        assert {(answer.code, answer.outcome) for answer in said[:-1]} == {(UNAVAILABLE, "not_stored")}
        assert read_answer(slow[0]).code == UNAVAILABLE
        for connection in slow[1:]:  # the others still have their room
            connection.sendall(b" ")
        assert [read_answer(connection).code for connection in slow[1:-1]] == ["malformed_json"] * 5


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_more_events_than_there_is_room_for_are_refused(host: Host, protocol: str) -> None:
    """All at once: whether there is room is asked before it is known how many events a request has."""
    events = [{"type": "many", "data": {"index": index, "text": "x" * 100}} for index in range(1_000)]
    body = json.dumps({"source": "pressure", "events": events}).encode()
    message = pb.IngestEventsRequest(batch=pb.EventBatch(source="pressure"))
    for item in events:
        message.batch.events.add(type="many", data_json=json.dumps(item["data"]).encode())

    def post(_: int) -> Said:
        with connect(host.server) as connection:
            connection.sendall(head(host.key, len(body)) + body)
            return read_answer(connection)

    def call(number: int) -> Said:
        return host.senders.message(host.key, message, number)

    with ThreadPoolExecutor(150) as threads:
        with held_inserts(host.mongo):
            waiting = [threads.submit(post if protocol == "rest" else call, number) for number in range(150)]
            host.settle()
            refused = [future.result() for future in waiting if future.done()]
            assert alive_in(host.server) < SOON_S
        said = [future.result() for future in waiting]
    assert {(answer.code, answer.outcome) for answer in refused} == {(UNAVAILABLE, "not_stored")}
    assert codes(said) == {UNAVAILABLE: len(refused), STORED: 150 - len(refused)}
    assert 150 - len(refused) <= 100


@pytest.mark.parametrize("events", [1, 100])
def test_streams_wait_rather_than_being_refused(host: Host, events: int) -> None:
    """They come to far more requests, or events, than there is room for."""
    streams_open, batches = (200, 20) if events == 1 else (50, 20)
    with ExitStack() as stack:
        channels = [stack.enter_context(channel_to(host.server.grpc)) for _ in range(10)]
        streams = [
            stack.enter_context(Stream(channels[number % 10], host.key["key"])) for number in range(streams_open)
        ]
        with held_inserts(host.mongo):
            for number, stream in enumerate(streams):
                for sequence in range(batches):
                    first = 10**6 + (number * batches + sequence) * events
                    stream.send(sequence, good_batch(range(first, first + events)))
            host.settle()
            assert alive_in(host.server) < SOON_S
        outcomes = [[stream.receive() for _ in range(batches)] for stream in streams]
    refused = [response.error for responses in outcomes for response in responses if response.HasField("error")]
    assert not refused, (len(refused), refused[0])
    assert all([r.sequence for r in responses] == list(range(batches)) for responses in outcomes)
    assert len(stored_ids(host.mongo, host.key)) == streams_open * batches * events + 2
