"""Decompression is fair between tenants, ends by the deadline, and stops for clients that are gone."""

import asyncio
import gzip
import time
import uuid
from collections.abc import Awaitable
from typing import Any

import pytest
from backports import zstd

from server.core import decompression, slow_work
from server.core.deadline import Deadline
from server.core.decompression import MAX_MEMBERS, Decompressor
from server.core.errors import MalformedJson, PayloadTooLarge, Unavailable
from server.core.slow_work import Steps
from tests.support.timing import assert_faster_than, first_good

MIB = 1024 * 1024
BOMB = gzip.compress(bytes(10 * MIB))
SMALL = gzip.compress(b"{}")
ONE, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)

EMPTY_MEMBERS = {
    "gzip": gzip.compress(b""),
    "zstd": zstd.compress(b""),
    "skippable zstd": bytes.fromhex("502a4d18 00000000"),
}
DYNAMIC_BLOCKS = gzip.compress(b"")[:10] + bytes.fromhex("04c0810800000000207feb47001c880000000000f2b77e") * (
    10 * MIB // 23
)
"""10 MiB that become nothing: gzip's header, and empty blocks, each with tables of its own. They take 1.4 s."""


async def settled(*work: Awaitable[bytes]) -> list[Any]:
    """The results, or what was raised."""
    return await asyncio.gather(*work, return_exceptions=True)


def test_a_tenant_with_bombs_delays_another_by_one_bomb() -> None:
    async def run() -> int:
        decompress = Decompressor(10 * MIB)
        bombs = [asyncio.create_task(decompress(BOMB, "gzip", ONE, Deadline())) for _ in range(100)]
        await asyncio.sleep(0)  # they wait for the thread
        assert await decompress(SMALL, "gzip", OTHER, Deadline()) == b"{}"
        done = sum(bomb.done() for bomb in bombs)
        for bomb in bombs:
            bomb.cancel()
        await settled(*bombs)
        return done

    assert asyncio.run(run()) <= 1


def test_what_is_not_decompressed_by_the_deadline_is_unavailable() -> None:
    async def run() -> list[Any]:
        decompress = Decompressor(10 * MIB)
        return await settled(*(decompress(BOMB, "gzip", ONE, Deadline(0.5)) for _ in range(100)))

    def check() -> None:
        results = asyncio.run(run())
        late = [result for result in results if isinstance(result, Unavailable)]
        assert len(late) > 50
        assert {error.outcome for error in late} == {"not_stored"}
        assert all(isinstance(result, Unavailable) or len(result) == 10 * MIB for result in results)

    assert_faster_than(2, check)


def test_no_work_for_a_client_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    decompressed = list[bytes]()

    def slowly(body: bytes, _encoding: str, _max_bytes: int) -> Steps[bytes]:
        time.sleep(0.05)
        decompressed.append(body)
        yield
        return body

    monkeypatch.setattr(decompression, "decompressing", slowly)

    async def run() -> None:
        decompress = Decompressor(MIB)
        bodies = [b"%d" % number for number in range(10)]
        waiting = [asyncio.create_task(decompress(body, "gzip", ONE, Deadline())) for body in bodies]
        await asyncio.sleep(0.01)
        for gone in waiting[1:9]:
            gone.cancel()
        assert await waiting[9] == b"9"

    asyncio.run(run())
    assert decompressed == [b"0", b"9"]


def test_the_tenant_that_fills_the_queue_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_work, "MAX_WAITING_BYTES", 5 * len(BOMB))

    async def run() -> tuple[list[Any], bytes]:
        decompress = Decompressor(10 * MIB)
        bombs = [asyncio.create_task(decompress(BOMB, "gzip", ONE, Deadline())) for _ in range(10)]
        await asyncio.sleep(0.05)
        good = await decompress(SMALL, "gzip", OTHER, Deadline())
        return await settled(*bombs), good

    results, good = asyncio.run(run())
    assert good == b"{}"
    rejected = [isinstance(result, Unavailable) for result in results]
    assert 4 <= sum(rejected) <= 6
    assert not rejected[0], "the oldest goes first"


@pytest.mark.parametrize("kind", EMPTY_MEMBERS)
def test_empty_members_cost_as_much_as_other_bombs(kind: str) -> None:
    body = EMPTY_MEMBERS[kind] * (10 * MIB // len(EMPTY_MEMBERS[kind]))

    async def run() -> float:
        began = time.process_time()
        with pytest.raises(PayloadTooLarge, match=f"over {MAX_MEMBERS} compressed parts"):
            await Decompressor(10 * MIB)(body, kind.rpartition(" ")[2], ONE, Deadline())
        return time.process_time() - began

    assert asyncio.run(run()) < 0.5


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_as_many_members_as_allowed(encoding: str) -> None:
    members = [b"%d," % number for number in range(MAX_MEMBERS)]
    body = b"".join(gzip.compress(member) if encoding == "gzip" else zstd.compress(member) for member in members)

    async def run() -> bytes:
        return await Decompressor(MIB)(body, encoding, ONE, Deadline())

    assert asyncio.run(run()) == b"".join(members)


def test_zeros_may_follow_a_gzip_member() -> None:
    async def run() -> bytes:
        return await Decompressor(MIB)(SMALL + bytes(MIB) + SMALL + bytes(9), "gzip", ONE, Deadline())

    assert asyncio.run(run()) == b"{}{}"


def test_a_body_that_becomes_nothing_delays_another_tenant_by_one_turn_and_ends_by_its_deadline() -> None:
    async def run() -> tuple[float, float, float]:
        decompress, began = Decompressor(10 * MIB), time.monotonic()
        bombs = [asyncio.create_task(decompress(DYNAMIC_BLOCKS, "gzip", ONE, Deadline(1))) for _ in range(3)]
        await asyncio.sleep(0)  # they wait for the thread
        await decompress(SMALL, "gzip", OTHER, Deadline())
        served_s = time.monotonic() - began
        assert all(isinstance(result, Unavailable) for result in await settled(*bombs))
        ended_s = time.monotonic() - began
        await asyncio.sleep(5 * slow_work.TURN_S)
        worked = time.process_time()
        await asyncio.sleep(0.5)
        return served_s, ended_s, time.process_time() - worked

    served_s, ended_s, late_s = first_good(lambda: asyncio.run(run()), lambda times: times[0] < 0.7 and times[1] < 2)
    assert served_s < 0.7
    assert ended_s < 2
    assert late_s < 0.1, "no work after the deadline"


def test_turns_go_round() -> None:
    """Three tenants: each has its first body decompressed before any has its second."""
    tenants = [uuid.UUID(int=number) for number in range(3)]
    order = list[uuid.UUID]()

    async def run() -> None:
        decompress = Decompressor(10 * MIB)

        async def one(tenant_id: uuid.UUID) -> None:
            await decompress(SMALL, "gzip", tenant_id, Deadline())
            order.append(tenant_id)

        await asyncio.gather(*(one(tenant_id) for tenant_id in tenants for _ in range(3)))

    asyncio.run(run())
    assert order == tenants * 3


@pytest.mark.parametrize(
    ("body", "encoding", "error"),
    [
        (gzip.compress(bytes(MIB + 1)), "gzip", PayloadTooLarge),
        (SMALL[:-3], "gzip", MalformedJson),
        (b"", "zstd", MalformedJson),
        (SMALL, "zstd", MalformedJson),
        (b"x", "deflate", MalformedJson),
    ],
    ids=["too large", "truncated", "empty", "of another encoding", "nonsense"],
)
def test_bad_bodies(body: bytes, encoding: str, error: type[Exception]) -> None:
    async def both() -> list[Any]:
        decompress = Decompressor(MIB)
        return await settled(decompress(body, encoding, ONE, Deadline()), decompress(SMALL, "gzip", ONE, Deadline()))

    bad, good = asyncio.run(both())
    assert isinstance(bad, error)
    assert good == b"{}", "the next body is decompressed all the same"
