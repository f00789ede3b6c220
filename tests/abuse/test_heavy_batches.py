"""Batches of one tenant that are heavy to decode, and another tenant's single events beside them.

Each has 10 MiB of empty lists, which take 30 times that as Python values, and one bad event at its end. Set
SLUICE_LONG=1 for more of them at once.
"""

import asyncio
import os
import time
import uuid

import httpx
import pytest

from tests.support.harness import Json, Server
from tests.support.pressure import memory_mib

BOMBS = 10 if os.environ.get("SLUICE_LONG") else 4
"""At once: one of two workers gets two or more of them, which would take 600 MiB as Python values."""

GOOD_EVENT = '{"type":"a","data":{"a":[[]' + ",[]" * 80_000 + "]}}"
BAD_ENDS = {
    "bad event": '{"type":"a"}]}',
    "half a character": r'{"type":"a","data":{"a":"\ud800"}}]}',
    "key that cannot be stored": r'{"type":"a","data":{"\u0000":1}}]}',
    "no end": '{"type":"a"}',
}
HEADERS = {"Content-Type": "application/json"}
DEADLINE_S = 10
SLOWEST_S = DEADLINE_S + 10
"""The deadline, and what the bodies take to arrive on a busy machine."""
SLOWEST_GOOD_S = 5
"""What a single event may take on a busy machine: 0.4 s on a quiet one, and 8 s when a body was decoded in one call."""
MAX_MEMORY_MIB = 500

REJECTED = 5
MANY_EVENTS = b'{"source":"s","events":[' + b"5," * (5 * 1024 * 1024 - 30) + b"5]}"
"""10 MiB that are rejected as a whole, after some 400 MiB of small objects were made of them."""

MAX_LEFT_MIB = 300


@pytest.mark.parametrize("end", BAD_ENDS.values(), ids=BAD_ENDS)
def test_heavy_batches_of_one_tenant_do_not_hold_up_another(server: Server, key: Json, end: str) -> None:
    body = ('{"source":"s","events":[' + f"{GOOD_EVENT}," * 43 + end).encode()
    good = b'{"source":"s","events":[{"type":"a","data":{}}]}'
    other = server.create_key(f"tenant-{uuid.uuid4().hex}", "--rate-limit", "0")

    async def run() -> tuple[list[tuple[int, float]], list[tuple[int, float]], float]:
        limits = httpx.Limits(max_connections=BOMBS + 10)
        async with httpx.AsyncClient(
            base_url=server.url, trust_env=False, timeout=60, limits=limits, headers=HEADERS
        ) as client:

            async def post(content: bytes, secret: str) -> tuple[int, float]:
                began = time.monotonic()
                response = await client.post("/api/v1/events", content=content, headers={"X-API-Key": secret})
                return response.status_code, time.monotonic() - began

            bombs = [asyncio.create_task(post(body, key["key"])) for _ in range(BOMBS)]
            served, memory = list[tuple[int, float]](), 0.0
            while not all(bomb.done() for bomb in bombs):
                served.append(await post(good, other["key"]))
                memory = max(memory, *(memory_mib(pid) for pid in server.worker_pids()))
            return [await bomb for bomb in bombs], served, memory

    answers, served, memory = asyncio.run(run())
    assert {status for status, _ in answers} <= {400, 503}
    assert max(seconds for _, seconds in answers) < SLOWEST_S
    assert {status for status, _ in served} == {201}
    assert max(seconds for _, seconds in served) < SLOWEST_GOOD_S
    assert memory < MAX_MEMORY_MIB


def test_rejected_batches_leave_nothing_in_memory(server: Server, key: Json) -> None:
    with server.client() as client:
        for _ in range(REJECTED):
            response = client.post("/api/v1/events", content=MANY_EVENTS, headers={**HEADERS, "X-API-Key": key["key"]})
            assert response.status_code == 400
    assert max(memory_mib(pid) for pid in server.worker_pids()) < MAX_LEFT_MIB
