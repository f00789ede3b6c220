"""Lists of a tenant's types: a worker holds a bounded part of them for clients that do not read."""

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.processes.reading.conftest import Host
from tests.support.pressure import memory_mib
from tests.support.readers import silent_readers
from tests.support.wire import EVENTS

TYPES = "/api/v1/event-types"

NAMES = [f"{number:04}".ljust(255, "\U0001f600") for number in range(9_000)]
"""Types with the longest names: 10 MiB as they are stored."""

SILENT_READERS = 40

SILENT_S = 5
"""How long they are watched: until the server has done all that it would."""

MAX_GROWTH_MIB = 100
"""Of a worker. If it built the whole list, each of the readers would take 10 MiB and more."""


@pytest.fixture(scope="module")
def client(host: Host) -> Iterator[httpx.Client]:
    """A client of a tenant that has sent NAMES, and has listed them once."""
    with host.server.client(host.key["key"]) as opened:
        for start in range(0, len(NAMES), 1_000):
            events = [{"type": name, "data": {}} for name in NAMES[start : start + 1_000]]
            assert opened.post(EVENTS, json={"source": "web", "events": events}).status_code == 201
        check(opened)
        yield opened


def check(client: httpx.Client) -> None:
    """All types are listed."""
    assert [item["event_type"] for item in client.get(TYPES).json()] == NAMES


def test_clients_that_do_not_read_take_a_bounded_part_of_memory(host: Host, client: httpx.Client) -> None:
    other = host.server.create_key("beside-silent-readers", "--rate-limit", "0")
    before, most, end = memory_mib(host.worker), 0.0, time.monotonic() + SILENT_S
    with (
        silent_readers(host.server, host.key, "", SILENT_READERS, TYPES),
        host.server.client(other["key"]) as other_client,
    ):
        while time.monotonic() < end:
            assert other_client.get(TYPES).json() == []
            most = max(most, memory_mib(host.worker))
            time.sleep(0.1)
    assert most - before < MAX_GROWTH_MIB
    check(client)
