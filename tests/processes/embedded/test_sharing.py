"""One data directory is used by one `serve` and any number of commands, in turn or together."""

import asyncio
from pathlib import Path

import pytest

from storage.embedded import EmbeddedMongod, State, embedded_database
from tests.support.embedded import alive, kill, own, pid_once_ready, read, rejection, until, write


def test_a_second_serve_is_rejected(tmp_path: Path) -> None:
    owner = own(tmp_path)
    pid_once_ready(owner)
    message = rejection(tmp_path)
    assert str(tmp_path) in message
    assert f"process {owner.pid}" in message
    assert "--data-dir" in message
    kill(owner)


def test_a_second_serve_is_rejected_while_the_first_still_starts(tmp_path: Path) -> None:
    owner = own(tmp_path)
    until((tmp_path / "mongod.json").exists)
    assert f"process {owner.pid}" in rejection(tmp_path)
    kill(owner)


def test_a_command_uses_the_one_that_runs_and_leaves_it_running(tmp_path: Path) -> None:
    async def scenario() -> None:
        starting = asyncio.create_task(EmbeddedMongod.start(tmp_path))
        await asyncio.to_thread(until, (tmp_path / "mongod.json").exists)
        async with embedded_database(tmp_path) as url:  # it waits until the other is ready
            await write(url, 1)
        mongod = await starting
        assert mongod.url == url
        assert await read(mongod.url) == [1]
        await mongod.stop()

    asyncio.run(scenario())


def test_a_command_runs_its_own_for_as_long_as_it_needs_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with embedded_database(tmp_path) as url:
            await write(url, 1)
            pid = State.load(tmp_path).pid
            assert pid is not None
            assert alive(pid)
        assert not alive(pid)
        async with embedded_database(tmp_path) as again:
            assert again == url
            assert await read(again) == [1]

    asyncio.run(scenario())


def test_a_command_that_fails_stops_its_own(tmp_path: Path) -> None:
    pids = []

    async def command() -> None:
        async with embedded_database(tmp_path):
            pids.append(State.load(tmp_path).pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(command())
    assert pids[0] is not None
    assert not alive(pids[0])


def test_commands_at_once_take_turns(tmp_path: Path) -> None:
    async def command(value: int) -> None:
        async with embedded_database(tmp_path) as url:
            await write(url, value)

    async def scenario() -> None:
        await asyncio.gather(command(1), command(2), command(3))
        async with embedded_database(tmp_path) as url:
            assert await read(url) == [1, 2, 3]

    asyncio.run(scenario())


def test_serve_waits_for_a_command(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with embedded_database(tmp_path) as url:
            starting = asyncio.create_task(EmbeddedMongod.start(tmp_path))
            await write(url, 1)
            assert not starting.done()
        mongod = await starting
        assert await read(mongod.url) == [1]
        await mongod.stop()

    asyncio.run(scenario())
