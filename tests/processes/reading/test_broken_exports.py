"""What ends an export midway breaks its connection, and clients that do not read cost a bounded part of memory."""

import http.client
import os
import signal
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from tests.processes.reading.conftest import LARGE_BYTES, LARGE_EVENTS, Host
from tests.support.exports import ENCODINGS, LINES, decoder, events_of, export
from tests.support.harness import Json, Server, sluice, wait_until
from tests.support.logs import assert_no_internal_errors
from tests.support.many_events import insert_events, insert_random_events
from tests.support.mongod import fail_point
from tests.support.pressure import memory_mib
from tests.support.readers import silent_readers
from tests.support.wire import EVENTS

STEP_BYTES = 100_000
MAX_MEMORY_MIB = 300
"""Of a worker, whatever its readers do."""

UNAUTHORIZED = 13
"""A state of the database that no retry within a request would end."""


@pytest.fixture(scope="module")
def large(host: Host) -> Host:
    """A tenant with 81 MB of events: even compressed, far more than a client that does not read is sent."""
    insert_random_events(host.mongo, host.key, LARGE_EVENTS, LARGE_BYTES)
    return host


class Reader:
    """An export that has begun, and is read when the test says so."""

    def __init__(self, server: Server, key: Json, encoding: str = "identity", query: str = "") -> None:
        self._connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
        headers = {"X-API-Key": key["key"], **LINES, "Accept-Encoding": encoding}
        self._connection.request("GET", f"{EVENTS}?{query}", headers=headers)
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        self.body = bytearray(self._response.read(STEP_BYTES))

    def read_to_the_end(self) -> None:
        """Read all. Raises ConnectionError or IncompleteRead for a broken export."""
        while chunk := self._response.read(STEP_BYTES):
            self.body += chunk

    def read_line(self) -> None:
        """Read until there is a whole line."""
        while b"\n" not in self.body:
            self.body += self._response.read(STEP_BYTES)

    def close(self) -> None:
        """Leave."""
        self._response.close()
        self._connection.close()

    def expect_break(self) -> None:
        """Fails if the export has an end."""
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            self.read_to_the_end()
        self.close()


def failing_finds(host: Host) -> AbstractContextManager[None]:
    """Make reads of events fail inside."""
    namespace = {"failCommands": ["find"], "namespace": "sluice.events"}
    return fail_point(host.mongo, "failCommand", "alwaysOn", errorCode=UNAUTHORIZED, **namespace)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_database_that_fails_breaks_an_export(large: Host, encoding: str) -> None:
    reader = Reader(large.server, large.key, encoding, query="event_type=inserted")
    with failing_finds(large):
        reader.expect_break()
    if encoding != "identity":
        decoding = decoder(encoding)
        decoding.decompress(reader.body)
        assert not decoding.eof
    assert_no_internal_errors(large.server)


def test_a_database_that_fails_at_the_start_gets_a_status(large: Host) -> None:
    with large.server.client(large.key["key"]) as client, failing_finds(large):
        response = client.get(EVENTS, headers=LINES)
    assert (response.status_code, response.json()["code"]) == (503, "unavailable")


def test_a_cut_export_goes_on_after_its_last_whole_line(large: Host) -> None:
    with large.server.client(large.key["key"]) as client:
        whole = export(client, {"order": "asc"})
        reader = Reader(large.server, large.key, query="order=asc")
        reader.read_line()
        with failing_finds(large):
            reader.expect_break()
        had = events_of(reader.body[: reader.body.rfind(b"\n") + 1])
        assert 0 < len(had) < len(whole)
        assert had + export(client, {"order": "asc", "after": had[-1]["id"]}) == whole


def test_a_revoked_key_ends_an_export(large: Host) -> None:
    key = large.server.create_key(large.key["tenant"], "--rate-limit", "0")
    reader = Reader(large.server, key)
    assert sluice("keys", "revoke", key["id"], *large.server.database_options).returncode == 0
    time.sleep(3)  # longer than a key is trusted
    reader.expect_break()
    assert len(reader.body) < LARGE_EVENTS * LARGE_BYTES / 2
    assert_no_internal_errors(large.server)


def test_exports_that_are_not_read_take_a_bounded_part_of_memory(large: Host) -> None:
    other = large.server.create_key("beside-silent-exports", "--rate-limit", "0")
    insert_events(large.mongo, other, 100)
    with ExitStack() as stack, large.server.client(other["key"]) as client:
        stack.enter_context(silent_readers(large.server, large.key, "", 40, accept=LINES["Accept"]))
        end, took = time.monotonic() + 8, list[float]()
        while time.monotonic() < end:
            began = time.monotonic()
            assert len(client.get(EVENTS).json()) == len(export(client)) == 100
            took.append(time.monotonic() - began)
            assert memory_mib(large.worker) < MAX_MEMORY_MIB
            time.sleep(0.1)
        assert statistics.median(took) < 1  # behind the exports, each would wait
        with large.server.client(large.key["key"]) as own:
            assert own.get(EVENTS, params={"limit": 1}).status_code == 200, "its lists go on"


def kill_worker(server: Server) -> None:
    (worker,) = server.worker_pids()
    os.kill(worker, signal.SIGKILL)


def drain(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("end", [kill_worker, drain], ids=["kill", "drain"])
def test_the_end_of_a_worker_breaks_an_export(large: Host, tmp_path: Path, end: Callable[[Server], None]) -> None:
    with Server(tmp_path, *large.server.options) as server:
        slow, quick = Reader(server, large.key), Reader(server, large.key)
        end(server)
        if end is drain:
            quick.read_to_the_end()
            assert len(events_of(quick.body)) == LARGE_EVENTS
            began = time.monotonic()
            wait_until(lambda: server.process.poll() is not None, "the end of the server", 30)
            assert time.monotonic() - began < 20
            assert_no_internal_errors(server)
        slow.expect_break()
        quick.close()
