"""Hosts share a key's limit to the unit: under load, while keys end, hosts come and go, and clients vanish."""

import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import Stream, channel_to, good_batch, metadata, stub_of
from tests.support.harness import Server, sluice, wait_until
from tests.support.limited_clients import (
    CLIENTS,
    EVENTS,
    GOOD_BODY,
    MAX_WAIT_S,
    REJECTED,
    STORED,
    UNAUTHENTICATED,
    Attempt,
    RestClient,
    StreamClient,
    open_clients,
)
from tests.support.logs import assert_no_internal_errors
from tests.support.rate_limit import Clock, Hosts, limited_key, limited_keys, stored_count
from tests.support.spending import Flow, check_limit, codes, spend

JSON = {"Content-Type": "application/json"}

BUSY = 100
"""Requests of a busy key: some 12 of each client."""


def test_exact_under_concurrency(hosts: Hosts, tmp_path: Path) -> None:
    with Server(tmp_path / "data", "--workers", "4", "--mongodb-url", hosts.url) as server:
        key = limited_key(server, 1_000)
        clock = Clock()
        with (
            open_clients([server], key["key"], rest=64) as rest,
            open_clients([server], key["key"], unary=8) as unary,
            ExitStack() as stack,
            ThreadPoolExecutor() as threads,
        ):
            streams = [stack.enter_context(closing(StreamClient(server, key["key"]))) for _ in range(8)]
            runs = [threads.submit(spend, rest, 1_500), threads.submit(spend, unary, 500)]
            runs += [threads.submit(stream.burst, 125) for stream in streams]
            attempts = [attempt for run in runs for attempt in run.result()]
        clock.check()
        assert codes(attempts) == {STORED: 1_000, REJECTED: 2_000}
        assert all(0 < attempt.wait_s <= MAX_WAIT_S for attempt in attempts if attempt.code == REJECTED)
        check_limit(attempts, 1_000)
        assert stored_count(hosts.mongo, key) == 1_000
    assert_no_internal_errors(server)


BURSTS: list[tuple[str, int, tuple[int, ...]]] = [
    ("rest", 2, (1,)),
    ("stream", 10, (3,)),
    ("unary", 10, (9,)),
    ("rest", 50, (25,)),
    ("stream", 50, (10, 10, 10, 19)),
    ("unary", 1_000, (300,)),
    ("rest", 1_000, (999,)),
    ("stream", 1_000, (200, 400, 100, 250)),
]
"""The protocol of the first burst, a limit, and the bursts that nearly use it up."""


@pytest.mark.slow
def test_what_a_burst_leaves_is_there_for_others_at_once(hosts: Hosts) -> None:
    keys = limited_keys(hosts.servers[0], [limit for _, limit, _ in BURSTS])
    for (protocol, limit, bursts), key in zip(BURSTS, keys, strict=True):
        clock = Clock()
        attempts: list[Attempt] = []
        with (
            open_clients(hosts.servers[:1], key["key"], **{protocol: 4}) as ones,
            open_clients(hosts.servers, key["key"], rest=3, unary=1, stream=1) as others,
        ):
            for number, burst in enumerate(bursts):
                attempts += spend(others if number % 2 else ones, burst)
            attempts += spend(others, limit - sum(bursts))
            clock.check()
            assert codes(attempts) == {STORED: limit}, (protocol, limit, bursts)
            attempts += spend(others, 30)
            clock.check()
        assert codes(attempts) == {STORED: limit, REJECTED: 30}, (protocol, limit, bursts)
        assert stored_count(hosts.mongo, key) == limit


@pytest.mark.parametrize("limit", [1, 3, 40, 400])
def test_none_is_rejected_before_the_last_is_admitted(hosts: Hosts, limit: int) -> None:
    key = limited_key(hosts.servers[1], limit)
    clock = Clock()
    with open_clients(hosts.servers, key["key"], rest=6, unary=2, stream=2) as clients:
        attempts = spend(clients, 3 * limit + 20)
    clock.check()
    assert codes(attempts) == {STORED: limit, REJECTED: 2 * limit + 20}
    check_limit(attempts, limit)


def test_hosts_share_one_budget(hosts: Hosts) -> None:
    key = limited_key(hosts.servers[0], 6)
    with ExitStack() as stack:
        clients = [
            stack.enter_context(closing(new_client(host, key["key"])))
            for new_client in CLIENTS.values()
            for host in hosts.servers
        ]
        attempts = [client() for client in clients]
        assert codes(attempts) == {STORED: 6}
        assert codes([client() for client in clients]) == {REJECTED: 6}


@pytest.mark.parametrize("limit", [4, 6])
def test_what_is_rejected_before_the_check_costs_nothing_elsewhere(hosts: Hosts, limit: int) -> None:
    one, other = hosts.servers
    key = one.create_key("limited-domain", "--rate-limit", str(limit), "--allow-domain", "example.com")
    with one.client(key["key"]) as client:
        assert client.post(EVENTS, content=GOOD_BODY, headers=JSON).status_code == 201
        for _ in range(3):
            foreign = {**JSON, "Origin": "https://example.org"}
            assert client.post(EVENTS, content=GOOD_BODY, headers=foreign).status_code == 403
    with closing(RestClient(other, key["key"])) as client:
        assert [client().code for _ in range(limit)] == [STORED] * (limit - 1) + [REJECTED]


@pytest.mark.parametrize("limit", [0, 10_000_000])
def test_ended_keys_stop_at_once_while_they_are_busy(hosts: Hosts, limit: int) -> None:
    server = hosts.servers[0]
    key = limited_key(server, limit)
    secret = key["key"]
    for command in ("rotate", "revoke"):
        with open_clients(hosts.servers, secret, rest=2, unary=1, stream=1) as clients, Flow(clients) as flow:
            wait_until(lambda flow=flow: flow.counts()[STORED] > BUSY, "a busy key")  # type: ignore[misc]
            done = sluice("keys", command, key["id"], *server.database_options)
            returned = time.monotonic()
            assert done.returncode == 0, done.stderr
            if command == "rotate":
                secret = done.stdout.strip()
                for new_client in CLIENTS.values():
                    for host in hosts.servers:
                        with closing(new_client(host, secret)) as client:
                            assert client().code == STORED
            wait_until(
                lambda flow=flow, returned=returned: sum(item.sent > returned for item in flow.attempts[:]) > BUSY,  # type: ignore[misc]
                "requests after the end",
            )
            attempts = flow.finish()
        assert set(codes([attempt for attempt in attempts if attempt.sent > returned])) == {UNAUTHENTICATED}
        assert set(codes(attempts)) == {STORED, UNAUTHENTICATED}


def test_ended_keys_stop_on_the_very_next_request(hosts: Hosts) -> None:
    server = hosts.servers[1]
    for command in ("rotate", "revoke"):
        key = limited_key(server, 1_000)
        with open_clients(hosts.servers, key["key"], rest=8, unary=2, stream=2) as clients:
            assert codes([client() for client in clients for _ in range(3)]) == {STORED: 3 * len(clients)}
            assert sluice("keys", command, key["id"], *server.database_options).returncode == 0
            assert codes([client() for client in clients]) == {UNAUTHENTICATED: len(clients)}


def test_a_key_that_is_rotated_while_it_is_busy_keeps_its_budget(hosts: Hosts) -> None:
    limit = 2_000
    server = hosts.servers[0]
    key = limited_key(server, limit)
    clock = Clock()
    slow = 0.02  # so that the limit outlasts the command, however long that takes on a busy machine
    with open_clients(hosts.servers, key["key"], rest=2, unary=1) as clients, Flow(clients, pause_s=slow) as flow:
        wait_until(lambda: flow.counts()[STORED] > 200, "a busy key")
        done = sluice("keys", "rotate", key["id"], *server.database_options)
        assert done.returncode == 0, done.stderr
        before = codes(flow.finish())
    assert before[REJECTED] == 0, "this test needs a higher limit"
    with open_clients(hosts.servers, done.stdout.strip(), rest=4, unary=1, stream=1) as clients, Flow(clients) as flow:
        wait_until(lambda: flow.counts()[REJECTED] > 50, "rejections")
        after = codes(flow.finish())
    clock.check()
    assert before[STORED] + after[STORED] == stored_count(hosts.mongo, key) == limit


def test_a_new_host_joins_the_budget(hosts: Hosts, tmp_path: Path) -> None:
    key = limited_key(hosts.servers[0], 200)
    clock = Clock()
    with open_clients(hosts.servers, key["key"], rest=2, unary=1, stream=1) as clients:
        assert codes(spend(clients, 150)) == {STORED: 150}
    with (
        Server(tmp_path / "data", "--mongodb-url", hosts.url) as third,
        open_clients([*hosts.servers, third], key["key"], rest=2, unary=1, stream=1) as clients,
    ):
        attempts = spend(clients, 120)
    clock.check()
    assert codes(attempts) == {STORED: 50, REJECTED: 70}


def test_a_host_that_drains_gives_back_what_it_held(hosts: Hosts, tmp_path: Path) -> None:
    key = limited_key(hosts.servers[0], 400)
    with Server(tmp_path / "data", "--workers", "2", "--mongodb-url", hosts.url) as third:
        clock = Clock()
        with open_clients([third], key["key"], rest=4, unary=2, stream=2) as clients:
            assert codes(spend(clients, 250)) == {STORED: 250}
        assert third.stop() == 0
    with open_clients(hosts.servers, key["key"], rest=2, unary=1, stream=1) as clients:
        attempts = spend(clients, 250)
    clock.check()
    assert codes(attempts) == {STORED: 150, REJECTED: 100}


def vanish(server: Server, secret: str, posts: int, calls: int, batches: int) -> None:
    """Send requests, and close the connections before their responses arrive."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {secret}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(GOOD_BODY)}\r\n\r\n".encode() + GOOD_BODY
    sockets = [socket.create_connection((host, int(port))) for _ in range(posts)]
    for number, connection in enumerate(sockets):
        connection.sendall(request)
        if number % 2:  # a reset rather than an end
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    with channel_to(server.grpc) as channel:
        stub = stub_of(channel)
        message = pb.IngestEventsRequest(batch=good_batch())
        pending = [stub.IngestEvents.future(message, metadata=metadata(secret)) for _ in range(calls)]
        with Stream(channel, secret) as stream:
            for sequence in range(batches):
                stream.send(sequence, good_batch())
            if batches:
                stream.receive()
        for call in pending:
            call.cancel()


def test_clients_that_vanish_use_no_more_than_the_limit(hosts: Hosts) -> None:
    wide, narrow = limited_keys(hosts.servers[0], [2_000, 200])
    for key, limit in ((wide, 2_000), (narrow, 200)):
        clock = Clock()
        with (
            open_clients(hosts.servers, key["key"], rest=4, unary=2, stream=2) as clients,
            Flow(clients) as flow,
            ThreadPoolExecutor(4) as threads,
        ):
            gone = [threads.submit(vanish, host, key["key"], 20, 20, 20) for host in hosts.servers for _ in range(2)]
            for run in gone:
                run.result()
            most = 4 * 60
            wait_until(lambda flow=flow: flow.counts()[REJECTED] > 50, "rejections")  # type: ignore[misc]
            attempts = flow.finish()
            clock.check()
        found_codes = codes(attempts)
        assert set(found_codes) == {STORED, REJECTED}
        assert max(0, limit - most) <= found_codes[STORED] <= limit
        assert found_codes[STORED] <= stored_count(hosts.mongo, key) <= limit
        assert max(attempt.answered - attempt.sent for attempt in attempts) < 15


def test_clients_that_vanish_do_not_hinder_others(hosts: Hosts) -> None:
    key = limited_key(hosts.servers[0], 5_000)
    for host in hosts.servers:
        vanish(host, key["key"], 40, 40, 40)
    with open_clients(hosts.servers, key["key"], rest=4, unary=2, stream=2) as clients:
        assert codes(spend(clients, 400)) == {STORED: 400}


def test_no_internal_errors(hosts: Hosts) -> None:
    for server in hosts.servers:
        assert_no_internal_errors(server)
