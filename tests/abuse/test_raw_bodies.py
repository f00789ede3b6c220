"""Large raw bodies of one tenant at once: memory is bounded, and another tenant's single events are not held up.

Set SLUICE_LONG=1 for more of them at once.
"""

import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.harness import Json, Server, batch
from tests.support.pressure import memory_mib
from tests.support.problems import EVENTS
from tests.support.raw import post_raw

BODIES = 10 if os.environ.get("SLUICE_LONG") else 5
"""At once: one of two workers gets three or more of them, of which lists would take 900 MiB as Python values."""

MIB_10 = 10 * 1024 * 1024
SLOWEST_GOOD_S = 5
"""What a single event may take on a busy machine: 0.2 s on a quiet one."""

MAX_MEMORY_MIB = 400

RESPONSE_TIMEOUT_S = 120
"""Ten bodies of lists take 7 s on a quiet machine, and over 30 s beside other tests. A body has time while it grows."""

SMALL = b'{"index":%d,"note":"' + b"x" * 140 + b'"}\n'

BODY_OF = {
    "small events": (b"".join(SMALL % index for index in range(60_000))[:MIB_10], {201}),
    "lists": ((b'{"a":[[]' + b",[]" * 20_000 + b"]}\n") * 174, {201, 503}),
    "blank lines": (b"\r\n" * (MIB_10 // 2), {400}),
    "one item": (b'{"a":[[]' + b",[]" * 3_400_000 + b"]}", {400, 503}),
}


@pytest.mark.parametrize(("body", "statuses"), BODY_OF.values(), ids=BODY_OF)
def test_many_at_once(server: Server, key: Json, body: bytes, statuses: set[int]) -> None:
    other = server.create_key(f"tenant-{uuid.uuid4().hex}", "--rate-limit", "0")

    def post(_: int) -> int:
        with server.client(key["key"]) as client:
            client.timeout = RESPONSE_TIMEOUT_S
            return post_raw(client, "source=s&type=t", body).status_code

    memory, slowest = 0.0, 0.0
    with ThreadPoolExecutor(BODIES) as threads, server.client(other["key"]) as neighbour:
        bodies = [threads.submit(post, number) for number in range(BODIES)]
        while not all(each.done() for each in bodies):
            began = time.monotonic()
            assert neighbour.post(EVENTS, json=batch()).status_code == 201
            slowest = max(slowest, time.monotonic() - began)
            memory = max(memory, *(memory_mib(pid) for pid in server.worker_pids()))
    assert {each.result() for each in bodies} <= statuses
    assert slowest < SLOWEST_GOOD_S
    assert memory < MAX_MEMORY_MIB
