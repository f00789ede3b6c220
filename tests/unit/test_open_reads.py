"""A connection whose message was slow brings no other for a while; other connections do."""

import asyncio
from time import monotonic

import pytest

from server.rpc import open_reads
from server.rpc.open_reads import MAX_READS, PAUSE_S, OpenReads


async def read(reads: OpenReads, connection: str) -> float:
    """Read a message of a connection. Returns when it was its turn."""
    async with reads.slot(connection):
        return monotonic()


def test_a_slow_connection_pauses_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_reads, "PAUSE_S", 3_600)

    async def scenario() -> None:
        reads = OpenReads()
        reads.pause("slow")
        paused = [asyncio.ensure_future(read(reads, "slow")) for _ in range(3 * MAX_READS)]
        await asyncio.sleep(0)  # they find that they must wait
        assert reads.others_wait()
        await read(reads, "other")
        assert not any(call.done() for call in paused)

    asyncio.run(scenario())


def test_a_pause_ends() -> None:
    async def scenario() -> None:
        reads = OpenReads()
        begun = monotonic()
        reads.pause("slow")
        paused = [asyncio.ensure_future(read(reads, "slow")) for _ in range(3 * MAX_READS)]
        assert min(await asyncio.gather(*paused)) >= begun + PAUSE_S
        assert not reads.others_wait()

    asyncio.run(scenario())


def test_calls_that_waited_for_a_slow_message_pause_too() -> None:
    async def scenario() -> None:
        reads = OpenReads()
        async with reads.slot("slow"), reads.slot("slow"):
            waiting = asyncio.ensure_future(read(reads, "slow"))
            await asyncio.sleep(0)
            assert reads.others_wait()
            reads.pause("slow")
            begun = monotonic()
        assert await waiting >= begun + PAUSE_S

    asyncio.run(scenario())


def test_a_cancelled_call_waits_no_more() -> None:
    async def scenario() -> None:
        reads = OpenReads()
        reads.pause("slow")
        call = asyncio.ensure_future(read(reads, "slow"))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        assert not reads.others_wait()

    asyncio.run(scenario())
