"""Lists of large events: a worker holds a bounded part of them, whoever reads, and stops if the client goes away."""

import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.processes.reading.conftest import LARGE_BYTES, LARGE_EVENTS, Host
from tests.support.harness import Json, wait_until
from tests.support.many_events import insert_events
from tests.support.pressure import memory_mib
from tests.support.readers import send_get, silent_readers
from tests.support.wire import EVENTS, connect

MAX_MEMORY_MIB = 300
"""Of a worker, whatever its readers do."""

MEMORY_KEPT_MIB = 60
"""How much more a worker may keep afterwards than it had before."""

SILENT_S = 8
"""How long the silent readers are watched: until the server has done all that it would."""


@pytest.fixture(scope="module")
def large(host: Host) -> Host:
    """A tenant with a page of the largest events, which was read once."""
    insert_events(host.mongo, host.key, LARGE_EVENTS, LARGE_BYTES)
    with host.server.client(host.key["key"]) as client:
        assert len(client.get(EVENTS, params={"limit": LARGE_EVENTS}).json()) == LARGE_EVENTS
    return host


@contextmanager
def watched_memory(host: Host) -> Iterator[None]:
    """Fails if the worker's memory is over the limit at any time inside, or stays high afterwards."""
    before, seen, stop = memory_mib(host.worker), [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            seen.append(memory_mib(host.worker))

    with ThreadPoolExecutor(1) as threads:
        watching = threads.submit(watch)
        try:
            yield
        finally:
            stop.set()
        watching.result()
    assert max(seen) < MAX_MEMORY_MIB
    wait_until(lambda: memory_mib(host.worker) < before + MEMORY_KEPT_MIB, f"memory back at {before:.0f} MiB", 10)


def test_clients_that_do_not_read_take_a_bounded_part_of_memory(large: Host) -> None:
    other = large.server.create_key("beside-silent-readers", "--rate-limit", "0")
    insert_events(large.mongo, other, 100)
    with watched_memory(large), silent_readers(large.server, large.key, f"limit={LARGE_EVENTS}", 60):
        end, took = time.monotonic() + SILENT_S, list[float]()
        with large.server.client(other["key"]) as client:
            while time.monotonic() < end:
                began = time.monotonic()
                assert len(client.get(EVENTS).json()) == 100
                took.append(time.monotonic() - began)
                time.sleep(0.1)
        assert statistics.median(took) < 1  # behind the silent readers, each would wait


def test_clients_that_read_take_a_bounded_part_of_memory(large: Host) -> None:
    many = large.server.create_key("many-readers", "--rate-limit", "0")
    insert_events(large.mongo, many, 1_000, 50_000)

    def read(key: Json) -> int:
        size = 0
        with (
            large.server.client(key["key"]) as client,
            client.stream("GET", EVENTS, params={"limit": 1_000}) as response,
        ):
            assert response.status_code == 200
            for chunk in response.iter_bytes():
                size += len(chunk)
        return size

    with watched_memory(large), ThreadPoolExecutor(8) as threads:
        for size in threads.map(read, [many] * 8):
            assert size > 1_000 * 50_000


def finds(host: Host) -> int:
    """How many reads of events the database has begun."""
    count: int = host.mongo.admin.command("serverStatus")["opcounters"]["query"]
    return count


def test_a_list_stops_when_its_client_goes_away(large: Host) -> None:
    before = finds(large)
    for _ in range(20):
        with connect(large.server) as connection:
            send_get(connection, large.key, f"limit={LARGE_EVENTS}")
            connection.recv(1)
    counts = [finds(large)]

    def are_over() -> bool:
        time.sleep(1)
        counts.append(finds(large))
        return counts[-1] - counts[-2] < 20  # a worker's own reads in the background

    wait_until(are_over, "the end of all reads")
    assert counts[-1] - before < 20 * LARGE_EVENTS / 3
    assert large.mongo.admin.command("serverStatus")["metrics"]["cursor"]["open"]["total"] == 0


def test_a_slow_client_gets_all_of_a_list(large: Host) -> None:
    with connect(large.server) as connection:
        send_get(connection, large.key, "limit=20")
        received, size = b"", 0
        while chunk := connection.recv(1_000_000):
            size += len(chunk)
            received = (received + chunk)[-20:]
            time.sleep(0.1)
    assert size > 20 * LARGE_BYTES
    assert received.endswith(b"]\r\n0\r\n\r\n")


def test_one_large_event_is_not_held_for_clients_that_do_not_read_it(large: Host) -> None:
    with large.server.client(large.key["key"]) as client:
        (newest,) = client.get(EVENTS, params={"limit": 1}).json()
    with watched_memory(large):
        opened = [connect(large.server) for _ in range(200)]
        for connection in opened:
            lines = (f"GET {EVENTS}/{newest['id']} HTTP/1.1", "Host: x", f"X-API-Key: {large.key['key']}", "", "")
            connection.sendall("\r\n".join(lines).encode())
        time.sleep(3)
        for connection in opened:
            connection.close()
