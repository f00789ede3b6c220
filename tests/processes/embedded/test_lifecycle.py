"""It starts, stops, recovers from a crash of its own or of its owner, and keeps what was acknowledged."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pymongo.errors import OperationFailure

from storage.client import database, opened
from storage.embedded import EmbeddedMongod, State, embedded_database
from tests.support.embedded import alive, cut_first_start, kill, kill_both, own, pid_once_ready, read, until, write


def test_it_takes_writes_and_keeps_them_over_a_clean_stop(tmp_path: Path) -> None:
    async def scenario() -> None:
        first = await EmbeddedMongod.start(tmp_path / "a" / "data")
        await write(first.url, 1)
        await first.stop()
        assert await first.wait() == 0
        second = await EmbeddedMongod.start(tmp_path / "a" / "data")
        assert second.url == first.url
        assert await read(second.url) == [1]
        await second.stop()

    asyncio.run(scenario())


def test_only_this_machine_reaches_it_and_only_with_the_password(tmp_path: Path) -> None:
    async def scenario() -> None:
        data_dir = tmp_path / "data"
        mongod = await EmbeddedMongod.start(data_dir)
        address = urlsplit(mongod.url)
        assert address.port is not None
        assert address.password is not None
        assert len(address.password) == 64

        for url in (
            f"mongodb://127.0.0.1:{address.port}",
            f"mongodb://sluice:wrong@127.0.0.1:{address.port}",
        ):
            async with opened(url, "pymongo", directConnection=True) as client:
                with pytest.raises(OperationFailure) as caught:
                    await database(client, "sluice")["things"].find_one()
                assert caught.value.code in {13, 18}  # Unauthorized, AuthenticationFailed
                with pytest.raises(OperationFailure):  # MongoDB's localhost exception must not hold either
                    await client.admin.command("createUser", "intruder", pwd="x", roles=["root"])

        sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        listening = [
            socket[1] for socket in sockets if socket[3] == "0A" and socket[1].endswith(f":{address.port:04X}")
        ]
        assert listening == [f"0100007F:{address.port:04X}"]
        assert data_dir.stat().st_mode & 0o777 == 0o700
        for file in data_dir.rglob("*"):
            with suppress(FileNotFoundError):  # mongod renames some of its files
                assert file.is_symlink() or file.stat().st_mode & 0o077 == 0, file
        await mongod.stop()

    asyncio.run(scenario())


def test_ctrl_c_on_the_terminal_does_not_reach_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        mongod = await EmbeddedMongod.start(tmp_path)
        assert os.getsid(mongod.pid) == mongod.pid
        await mongod.stop()

    asyncio.run(scenario())


def test_after_its_own_death_a_restart_has_all_that_was_acknowledged(tmp_path: Path) -> None:
    async def scenario() -> None:
        mongod = await EmbeddedMongod.start(tmp_path)
        url, pid = mongod.url, mongod.pid
        async with opened(url, "pymongo") as worker:
            things = database(worker, "sluice")["things"]
            await things.insert_many([{"_id": value} for value in range(100)])
            os.kill(pid, signal.SIGKILL)
            assert await mongod.wait() == -signal.SIGKILL
            await mongod.restart()
            assert (mongod.url, mongod.pid != pid) == (url, True)
            assert await things.count_documents({}) == 100  # over the client that it had before
        await mongod.stop()

    asyncio.run(scenario())


def test_when_its_owner_is_killed_it_ends_and_the_next_start_waits_for_that(tmp_path: Path) -> None:
    owner = own(tmp_path)
    orphan = pid_once_ready(owner)
    asyncio.run(write(State.load(tmp_path).url(tmp_path), 1))
    owner.kill()
    until(lambda: not alive(owner.pid))  # it is not reaped, so it is still in /proc

    async def scenario() -> None:
        mongod = await EmbeddedMongod.start(tmp_path)
        assert not alive(orphan)
        assert await read(mongod.url) == [1]
        await mongod.stop()

    asyncio.run(scenario())
    kill(owner)


def test_when_its_owner_is_killed_it_ends_without_a_next_start(tmp_path: Path) -> None:
    owner = own(tmp_path)
    orphan = pid_once_ready(owner)
    kill(owner)
    until(lambda: not alive(orphan))


def test_a_first_start_cut_short_anywhere_is_completed_by_the_next(tmp_path: Path) -> None:
    def logged(text: str) -> Callable[[], bool]:
        log = tmp_path / "mongod.log"
        return lambda: log.exists() and text in log.read_text(errors="replace")

    moments: list[Callable[[], object]] = [
        (tmp_path / "mongod.json").exists,
        (tmp_path / "password").exists,
        (tmp_path / "db" / "mongod.lock").exists,
        (tmp_path / "db" / "WiredTiger.wt").exists,
        logged("Waiting for connections"),
        logged("replSetInitiate"),
        logged("Transition to primary complete"),
    ]
    for moment in moments:
        owner = own(tmp_path)
        until(moment)
        kill_both(owner)

    async def scenario() -> None:
        mongod = await EmbeddedMongod.start(tmp_path)
        await write(mongod.url, 1)
        await mongod.stop()

    asyncio.run(scenario())


def test_files_that_mongod_was_still_making_are_made_again(tmp_path: Path) -> None:
    turtle = tmp_path / "data" / "db" / "WiredTiger.turtle"
    cut_first_start(tmp_path / "data", turtle.exists)
    turtle.write_text("")  # such a kill may leave it so, and mongod cannot repair it

    async def scenario() -> None:
        async with embedded_database(tmp_path / "data") as url:
            await write(url, 1)
        async with embedded_database(tmp_path / "data") as url:
            assert await read(url) == [1]

    asyncio.run(scenario())


def test_a_start_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        starting = asyncio.create_task(EmbeddedMongod.start(tmp_path))
        await asyncio.to_thread(until, (tmp_path / "db" / "WiredTiger.wt").exists)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert State.load(tmp_path).holder is None
        mongod = await EmbeddedMongod.start(tmp_path)
        await mongod.stop()

    asyncio.run(scenario())


def test_two_that_want_one_port_at_once_get_two(tmp_path: Path) -> None:
    """Each begins to listen long after it has chosen its port."""

    async def scenario() -> None:
        folders = tmp_path / "a", tmp_path / "b"
        port = State.load(tmp_path).port
        for folder in folders:
            folder.mkdir()
            State(port).save(folder)
        started = await asyncio.gather(*map(EmbeddedMongod.start, folders))
        assert len({State.load(folder).port for folder in folders}) == 2
        for mongod in started:
            await mongod.stop()

    asyncio.run(scenario())


def test_it_moves_where_its_port_is_taken(tmp_path: Path) -> None:
    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def scenario() -> None:
        async with embedded_database(tmp_path) as url:
            await write(url, 1)
        squatter = await asyncio.start_server(hang_up, "127.0.0.1", State.load(tmp_path).port)
        async with squatter, embedded_database(tmp_path) as moved:
            assert moved != url
            assert await read(moved) == [1]
        async with embedded_database(tmp_path) as later:
            assert later == moved

    asyncio.run(scenario())


def test_it_outlives_a_lost_password_and_a_damaged_state(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with embedded_database(tmp_path) as url:
            await write(url, 1)
        (tmp_path / "password").unlink()
        (tmp_path / "mongod.json").write_text("{")
        async with embedded_database(tmp_path) as renewed:
            assert urlsplit(renewed).password != urlsplit(url).password
            assert await read(renewed) == [1]

    asyncio.run(scenario())
