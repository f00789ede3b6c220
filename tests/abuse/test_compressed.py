"""Gzip bombs of one tenant, as many as fit on the wire, and another tenant's small compressed batches beside them.

This is a campaign: with SLUICE_LONG=1 there are 1,000 bombs, as in the report that it comes from.
"""

import asyncio
import gzip
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.harness import Server, batch
from tests.support.pressure import memory_mib

BOMBS = 1_000 if os.environ.get("SLUICE_LONG") else 150
BOMB = gzip.compress(b" " * (10 << 20))
"""10 KB that become 10 MiB of white space: no JSON, but within every limit."""

GOOD = gzip.compress(json.dumps(batch()).encode())
HEADERS = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
GOOD_S = 10
SLOWEST_S = 20
"""The deadline of 10 s, and as long again until the server and the client have come to it on a busy machine."""
SHARE = 1 / 3
"""How long a good batch may take, of the slowest bomb. Where bombs come first, it takes as long as they do."""
MAX_MEMORY_MIB = 400


async def attack(url: str, bad: str, good: str) -> tuple[Counter[int], float, list[tuple[int, float]]]:
    """Send all bombs at once, and good batches one after the other. Returns what came of them, and how long it took."""
    limits = httpx.Limits(max_connections=BOMBS + 10)
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=60, limits=limits, headers=HEADERS) as client:

        async def post(content: bytes, key: str) -> tuple[int, float]:
            began = time.monotonic()
            response = await client.post("/api/v1/events", content=content, headers={"X-API-Key": key})
            return response.status_code, time.monotonic() - began

        bombs = [asyncio.create_task(post(BOMB, bad)) for _ in range(BOMBS)]
        await asyncio.sleep(0.5)
        began, served = time.monotonic(), list[tuple[int, float]]()
        while time.monotonic() - began < GOOD_S and not all(bomb.done() for bomb in bombs):
            served.append(await post(GOOD, good))
        answers = await asyncio.gather(*bombs)
    return Counter(status for status, _ in answers), max(seconds for _, seconds in answers), served


@pytest.fixture
def bombed(tmp_path: Path) -> Iterator[Server]:
    """A server with one worker, whose memory nothing else has raised."""
    with Server(tmp_path) as server:
        yield server


def test_bombs_of_one_tenant_do_not_hold_up_another(bombed: Server) -> None:
    bad, good = (bombed.create_key(tenant, "--rate-limit", "0")["key"] for tenant in ("bad", "good"))
    statuses, slowest, served = asyncio.run(attack(bombed.url, bad, good))
    assert set(statuses) <= {400, 503}, statuses
    assert statuses[400] > 0
    assert slowest < SLOWEST_S
    assert served
    assert {status for status, _ in served} == {201}
    assert max(seconds for _, seconds in served) < SHARE * slowest, served
    assert max(memory_mib(pid, "VmHWM") for pid in bombed.worker_pids()) < MAX_MEMORY_MIB
