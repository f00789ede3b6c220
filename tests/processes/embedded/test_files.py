"""What an operator may do to the data directory: no file of a database is deleted, and none is made by accident."""

import asyncio
import errno
import fcntl
import logging
import os
import shutil
import signal
from pathlib import Path

import pytest

from server.core.errors import ConfigurationError
from storage.embedded import EmbeddedMongod, State, embedded_database
from storage.embedded.data_directory import read_password, try_to_lock
from tests.support.embedded import cut_first_start, read, rejection, write
from tests.support.harness import Server, descriptors, sluice

ANY_PORTS = ("--port", "0", "--grpc-port", "0")


def fill(data_dir: Path, value: int = 1) -> None:
    """Write a value into the database of the directory, which is made if there is none."""

    async def scenario() -> None:
        async with embedded_database(data_dir) as url:
            await write(url, value)

    asyncio.run(scenario())


def content(data_dir: Path) -> list[int]:
    async def scenario() -> list[int]:
        async with embedded_database(data_dir) as url:
            return await read(url)

    return asyncio.run(scenario())


# --- an unfinished first start


def test_what_lies_in_an_unfinished_directory_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path / "backup", 7)
    cut_first_start(tmp_path / "data", (tmp_path / "data" / "db" / "WiredTiger.wt").exists)
    shutil.rmtree(tmp_path / "data" / "db")
    shutil.copytree(tmp_path / "backup" / "db", tmp_path / "data" / "db")
    with caplog.at_level(logging.WARNING):
        assert content(tmp_path / "data") == []
    (aside,) = (tmp_path / "data").glob("db.unfinished-*")
    assert any(f"were moved to {aside}" in record.getMessage() for record in caplog.records)

    shutil.rmtree(tmp_path / "data" / "db")
    aside.rename(tmp_path / "data" / "db")
    assert content(tmp_path / "data") == [7]


def test_a_backup_with_its_state_is_used_as_it_is(tmp_path: Path) -> None:
    fill(tmp_path / "backup", 7)
    cut_first_start(tmp_path / "data", (tmp_path / "data" / "db" / "WiredTiger.wt").exists)
    shutil.rmtree(tmp_path / "data" / "db")
    links = shutil.ignore_patterns("lib")  # to libraries, on a system that lacks them
    shutil.copytree(tmp_path / "backup", tmp_path / "data", dirs_exist_ok=True, ignore=links)
    assert content(tmp_path / "data") == [7]
    assert not list((tmp_path / "data").glob("db.unfinished-*"))


# --- files that are gone


@pytest.mark.parametrize("leave_folder", [True, False])
def test_a_start_makes_no_database_where_one_was(tmp_path: Path, leave_folder: bool) -> None:
    fill(tmp_path)
    (tmp_path / "db").rename(tmp_path / "elsewhere")
    if leave_folder:
        (tmp_path / "db").mkdir()
    message = rejection(tmp_path)
    assert f"gone from {tmp_path / 'db'}: mount the volume or restore them" in message
    if leave_folder:
        (tmp_path / "db").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "db")
    assert content(tmp_path) == [1]

    (tmp_path / "db").rename(tmp_path / "elsewhere")
    (tmp_path / "mongod.json").unlink()  # as the message says
    assert content(tmp_path) == []


def test_a_restart_makes_no_database_in_an_empty_directory(tmp_path: Path) -> None:
    data, away = tmp_path / "data", tmp_path / "away"

    async def scenario() -> None:
        mongod = await EmbeddedMongod.start(data)
        await write(mongod.url, 1)
        data.rename(away)  # as an unmounted volume
        data.mkdir()
        os.kill(mongod.pid, signal.SIGKILL)
        with pytest.raises(ConfigurationError, match="the files of the database are gone from"):
            await mongod.restart()
        assert list(data.iterdir()) == []
        data.rmdir()
        with pytest.raises(ConfigurationError, match="the files of the database are gone from"):
            await mongod.restart()
        away.rename(data)
        await mongod.restart()
        assert await read(mongod.url) == [1]
        await mongod.stop()

    asyncio.run(scenario())


# --- links, locks, notices


@pytest.mark.parametrize("name", ["data", "data/db", "above/data"])
def test_a_link_to_nothing_is_named(tmp_path: Path, name: str) -> None:
    link = tmp_path / ("above" if name.startswith("above") else name)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "nowhere")
    done = sluice("serve", *ANY_PORTS, "--data-dir", str(tmp_path / name.removesuffix("/db")))
    assert done.returncode == 2
    assert done.stderr.startswith(f"sluice: {link} is a link to {tmp_path / 'nowhere'}, which does not exist: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "nowhere").exists()


def test_a_link_to_a_directory_is_followed(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "volume")
    fill(tmp_path / "data")
    assert content(tmp_path / "volume") == [1]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_lock_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(_descriptor: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    message = rejection(tmp_path)
    assert f"the file system of the data directory {tmp_path} cannot lock files ({os.strerror(number)})" in message
    assert "--data-dir" in message
    assert not [opened for opened in descriptors(os.getpid()) if opened.startswith(str(tmp_path))]


@pytest.mark.parametrize("is_served", [True, False])
def test_a_file_system_that_locks_only_for_writing_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_served: bool
) -> None:
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    held = try_to_lock(tmp_path) if is_served else None
    lock = try_to_lock(tmp_path)
    assert (lock is None) == is_served
    for descriptor in (held, lock):
        if descriptor is not None:
            os.close(descriptor)


@pytest.mark.slow
def test_the_notice_says_whether_the_database_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    server = Server(Path("data"))
    for notice in ("new database made in", "embedded in"):
        with server:
            pass
        assert f"{notice} {tmp_path / 'data'} (MongoDB " in server.stderr()
        (tmp_path / "data" / "serve.log").unlink()
    done = sluice("keys", "list", "--data-dir", "data")
    assert f"embedded in {tmp_path / 'data'} (MongoDB " in done.stderr
    assert "new database" not in done.stderr


# --- the password file


def test_a_password_that_others_may_read_is_made_private(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "password").chmod(0o660)
    assert content(tmp_path) == [1]
    assert (tmp_path / "password").stat().st_mode & 0o777 == 0o600


def test_a_password_file_of_another_user_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    password = read_password(tmp_path)
    (tmp_path / "password").chmod(0o660)

    def refuse(_path: Path, _mode: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "chmod", refuse)
    assert read_password(tmp_path) == password
    assert (tmp_path / "password").stat().st_mode & 0o777 == 0o600


def test_files_that_cannot_be_used_are_told_and_leave_no_lock(tmp_path: Path) -> None:
    State(port=20_001).save(tmp_path)
    (tmp_path / "password").mkdir()
    assert f"the data directory {tmp_path} cannot be used (Is a directory" in rejection(tmp_path)
    (tmp_path / "password").rmdir()
    (tmp_path / "mongod.json").unlink()
    (tmp_path / "mongod.json").mkdir()
    assert f"the data directory {tmp_path} cannot be used (Is a directory" in rejection(tmp_path)
    (tmp_path / "mongod.json").rmdir()
    fill(tmp_path)
