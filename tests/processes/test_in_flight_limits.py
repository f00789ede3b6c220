"""Limits on what a worker has in flight: requests, events and bytes. At a limit it rejects at once, or stops reading.

A fail point holds up the database, so that all requests wait. Each test sends more than the worker has capacity for.
"""

import http.client
import json
import resource
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import Stream, channel_to, good_batch
from tests.support.harness import Json, MongoClient, Server, batch, wait_until
from tests.support.logs import assert_no_internal_errors
from tests.support.mongod import Mongod
from tests.support.pressure import (
    EVENTS,
    STORED,
    UNAVAILABLE,
    Clients,
    Response,
    SentRequest,
    UnaryRequest,
    check_stored,
    codes,
    held_inserts,
    memory_mib,
    responses_of,
    rest_response,
    stored_ids,
    wait_until_quiet,
)

MAX_REQUESTS = 2_000
MAX_BYTES = 64 * 1024 * 1024
"""The limits of a worker."""

FILES = 8_192
"""File descriptors for a few thousand connections."""

SLOW_S = 5
"""A body that arrives for longer is cancelled if there is no capacity for another."""

CANCELLED_S = 20
"""In this time, one is cancelled for others: after SLOW_S, and later on a busy machine. A body may pause for 30 s."""

MAX_MEMORY_MIB = 400
"""The memory of a worker, whatever it is sent."""

RETURN_S = 15
"""The time in which a worker returns memory that it does not need: it looks every 5 s."""

MEMORY_KEPT_MIB = 150
"""The growth of a worker's memory after it was at a limit."""

SOON_S = 1.0
"""At once, on a busy machine: far less than the inserts are held up."""

ATTEMPTS = 3
"""The best one counts: other tests run at the same time."""

MEBIBYTE = 1024 * 1024


class Host(NamedTuple):
    """A server with one worker, the database that it uses, and a tenant's key."""

    server: Server
    mongo: MongoClient
    clients: Clients
    key: Json
    worker: int

    def settle(self) -> None:
        """Wait until the worker has read what was sent."""
        wait_until_quiet(self.worker)


@pytest.fixture(scope="module", autouse=True)
def files() -> Iterator[None]:
    """Raise the limit of file descriptors, for the tests and for the servers that they start."""
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
        clients = stack.enter_context(Clients(server, channels=25))  # each has 100 calls open at most
        assert codes(responses_of(clients.both(key))) == {STORED: 2}
        (worker,) = server.worker_pids()
        before = memory_mib(worker)
        yield Host(server, mongo, clients, key, worker)
        assert server.worker_pids() == [worker]
        assert memory_mib(worker, "VmHWM") < MAX_MEMORY_MIB
        wait_until(lambda: memory_mib(worker) < before + MEMORY_KEPT_MIB, "memory to be returned", RETURN_S)
        assert_no_internal_errors(server)


def best_of(attempt: Callable[[], object]) -> float:
    """The seconds that something takes: of some attempts, or of the first that takes less than SOON_S."""
    took = list[float]()
    while not took or (took[-1] >= SOON_S and len(took) < ATTEMPTS):
        begun = time.monotonic()
        attempt()
        took.append(time.monotonic() - begun)
    return min(took)


def alive_in(server: Server) -> float:
    """The seconds that a request to `/health/live` takes."""

    def request() -> None:
        with server.client() as client:
            assert client.get("/health/live").status_code == 200

    return best_of(request)


def head(key: Json, size: int) -> bytes:
    """The head of a request with a body of `size` bytes."""
    fields = [f"POST {EVENTS} HTTP/1.1", "Host: sluice", f"X-API-Key: {key['key']}"]
    fields += ["Content-Type: application/json", f"Content-Length: {size}", "", ""]
    return "\r\n".join(fields).encode()


def connect(server: Server) -> socket.socket:
    """A connection to the REST port."""
    name, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((name, int(port)), timeout=30)


def read_response(connection: socket.socket) -> Response:
    """The response on a connection."""
    with connection, http.client.HTTPResponse(connection) as response:
        response.begin()
        return rest_response(response.status, response.headers, response.read())


def answered_by_now(sent: Iterable[UnaryRequest] | Iterable[Future[Response]]) -> int:
    """How many requests have their responses."""
    return sum(request.done() for request in sent)


def test_more_requests_than_there_is_capacity_for_are_rejected_at_once(host: Host) -> None:
    with held_inserts(host.mongo):
        waiting = [host.clients.call(host.key) for _ in range(MAX_REQUESTS + 300)]
        wait_until(lambda: answered_by_now(waiting) >= 300, "rejections")
        host.settle()
        last = [host.clients.post(host.key) for _ in range(5)]  # if one slot was left
        host.settle()
        late, late_said = list[SentRequest](), list[Response]()

        def send_late() -> None:
            sent = [request for _ in range(20) for request in host.clients.both(host.key)]
            late.extend(sent)
            late_said.extend(responses_of(sent))

        def send_a_part() -> None:
            with connect(host.server) as connection:
                connection.sendall(head(host.key, 5_000_000) + b" " * 1_000)  # nothing more comes
                said = read_response(connection)
            assert (said.code, said.outcome) == (UNAVAILABLE, "not_stored")

        assert best_of(send_late) < SOON_S
        assert alive_in(host.server) < SOON_S
        assert best_of(send_a_part) < SOON_S
    waiting_said, last_said = responses_of(waiting), responses_of(last)
    assert codes(last_said)[STORED] <= 1
    assert MAX_REQUESTS - 1 <= codes(waiting_said)[STORED] <= MAX_REQUESTS
    for response in [*waiting_said, *late_said]:
        assert (response.code, response.outcome) in {(STORED, ""), (UNAVAILABLE, "not_stored")}
    assert codes(late_said) == {UNAVAILABLE: len(late)}
    check_stored(host.mongo, [*waiting, *last, *late], waiting_said + last_said + late_said)
    assert codes(responses_of(host.clients.both(host.key))) == {STORED: 2}


def test_clients_that_send_slowly_take_no_slots(host: Host) -> None:
    body = json.dumps(batch()).encode()
    half = len(body) // 2
    with ExitStack() as stack:
        slow = []
        for _ in range(MAX_REQUESTS + 100):
            connection = stack.enter_context(connect(host.server))
            connection.sendall(head(host.key, len(body)) + body[:half])
            slow.append(connection)
        host.settle()
        sent = [request for _ in range(20) for request in host.clients.both(host.key)]
        said = responses_of(sent)
        assert codes(said) == {STORED: 40}
        check_stored(host.mongo, sent, said)
        assert alive_in(host.server) < SOON_S
        for start in range(0, len(slow), 300):  # no more at once than the worker has slots
            for connection in slow[start : start + 300]:
                connection.sendall(body[half:])
            assert codes([read_response(connection) for connection in slow[start : start + 300]]) == {
                STORED: len(slow[start : start + 300])
            }


def test_more_bytes_than_there_is_capacity_for_are_rejected(host: Host) -> None:
    text = "x" * 990_000
    events = [{"type": "large", "data": {"text": text}}] * 5
    body = json.dumps({"source": "pressure", "events": events}).encode()
    fit = MAX_BYTES // len(body)

    def post(_: int) -> Response:
        with connect(host.server) as connection:
            connection.sendall(head(host.key, len(body)) + body)
            return read_response(connection)

    with ThreadPoolExecutor(20) as threads:
        with held_inserts(host.mongo):
            waiting = [threads.submit(post, number) for number in range(20)]
            wait_until(lambda: answered_by_now(waiting) >= 20 - (fit + 1), "rejections")
            host.settle()
            assert alive_in(host.server) < SOON_S
        said = [future.result() for future in waiting]
    stored = codes(said)[STORED]
    assert stored in {fit, fit + 1}
    assert codes(said) == {UNAVAILABLE: 20 - stored, STORED: stored}
    assert {response.outcome for response in said if response.code == UNAVAILABLE} == {"not_stored"}
    assert host.mongo.sluice.events.count_documents({"event_type": "large"}) == 5 * stored


def test_slow_bodies_are_cancelled_for_others(host: Host) -> None:
    """They use all capacity for bodies that are arriving. One that comes with its head needs none."""
    size = 10 * MEBIBYTE
    small = json.dumps(batch()).encode()
    large = small + b" " * MEBIBYTE  # too long to come with its head

    def post(body: bytes) -> Response:
        with connect(host.server) as connection:
            connection.sendall(head(host.key, len(body)) + body)
            return read_response(connection)

    with ExitStack() as stack:
        slow = []
        for sent in [size - 1] * 6 + [4 * MEBIBYTE]:
            connection = stack.enter_context(connect(host.server))
            connection.sendall(head(host.key, size) + b" " * sent)
            slow.append(connection)
        host.settle()
        said = [post(large)]
        begun = time.monotonic()
        while said[-1].code != STORED:
            assert time.monotonic() - begun < CANCELLED_S
            assert host.clients.call(host.key).response().code == STORED  # this limit is not for gRPC
            assert post(small).code == STORED
            said.append(post(large))
        assert {(response.code, response.outcome) for response in said[:-1]} == {(UNAVAILABLE, "not_stored")}
        assert read_response(slow[0]).code == UNAVAILABLE
        for connection in slow[1:]:  # the other bodies still arrive
            connection.sendall(b" ")
        assert [read_response(connection).code for connection in slow[1:-1]] == ["malformed_json"] * 5


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_more_events_than_there_is_capacity_for_are_rejected(host: Host, protocol: str) -> None:
    """They are sent at once: a slot is given before the number of events of a request is known."""
    events = [{"type": "many", "data": {"index": index, "text": "x" * 100}} for index in range(1_000)]
    body = json.dumps({"source": "pressure", "events": events}).encode()
    message = pb.IngestEventsRequest(batch=pb.EventBatch(source="pressure"))
    for item in events:
        message.batch.events.add(type="many", data_json=json.dumps(item["data"]).encode())

    def post(_: int) -> Response:
        with connect(host.server) as connection:
            connection.sendall(head(host.key, len(body)) + body)
            return read_response(connection)

    def call(number: int) -> Response:
        return host.clients.message(host.key, message, number)

    with ThreadPoolExecutor(150) as threads:
        with held_inserts(host.mongo):
            waiting = [threads.submit(post if protocol == "rest" else call, number) for number in range(150)]
            wait_until(lambda: answered_by_now(waiting) >= 50, "rejections")
            host.settle()
            assert alive_in(host.server) < SOON_S
        said = [future.result() for future in waiting]
    assert codes(said).keys() == {UNAVAILABLE, STORED}
    assert codes(said)[STORED] <= 100
    assert {response.outcome for response in said if response.code == UNAVAILABLE} == {"not_stored"}


@pytest.mark.parametrize("events", [1, 100])
def test_streams_wait_rather_than_being_rejected(host: Host, events: int) -> None:
    """They have far more requests, or events, than the worker has capacity for."""
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
    rejected = [response.error for responses in outcomes for response in responses if response.HasField("error")]
    assert not rejected, (len(rejected), rejected[0])
    assert all([r.sequence for r in responses] == list(range(batches)) for responses in outcomes)
    assert len(stored_ids(host.mongo, host.key)) == streams_open * batches * events + 2
