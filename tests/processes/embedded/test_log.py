"""The log of mongod stays small: a new one is begun when it is large, at a start and while mongod runs."""

import asyncio
from pathlib import Path

import pytest

from storage.embedded import EmbeddedMongod, log_file, mongod
from storage.embedded.log_file import KEPT_LOGS, MAX_LOG_BYTES, rotate_if_large
from tests.support.embedded import read, write


def test_a_small_log_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "mongod.log"
    assert not rotate_if_large(log)
    log.write_bytes(b"x" * (MAX_LOG_BYTES - 1))
    assert not rotate_if_large(log)
    assert [file.name for file in tmp_path.iterdir()] == ["mongod.log"]


def test_a_few_older_logs_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "mongod.log"
    for number in range(KEPT_LOGS + 3):
        log.write_bytes(bytes([number]) * MAX_LOG_BYTES)
        assert rotate_if_large(log)
        assert not log.exists()
        assert (tmp_path / "mongod.log.1").read_bytes()[0] == number
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"mongod.log.{n + 1}" for n in range(KEPT_LOGS)]
    assert (tmp_path / f"mongod.log.{KEPT_LOGS}").read_bytes()[0] == KEPT_LOGS + 3 - KEPT_LOGS


def test_a_large_log_is_put_away_at_the_start(tmp_path: Path) -> None:
    log = tmp_path / "mongod.log"
    log.write_bytes(b"old\n" * (MAX_LOG_BYTES // 4))

    async def scenario() -> None:
        running = await EmbeddedMongod.start(tmp_path)
        await running.stop()

    asyncio.run(scenario())
    assert (tmp_path / "mongod.log.1").read_bytes()[:4] == b"old\n"
    assert log.stat().st_size < 2**20


def test_a_log_that_grows_while_mongod_runs_is_put_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongod, "LOG_CHECK_INTERVAL_S", 0.05)
    monkeypatch.setattr(log_file, "MAX_LOG_BYTES", 2**14)  # less than mongod writes as it starts
    log = tmp_path / "mongod.log"

    async def scenario() -> None:
        running = await EmbeddedMongod.start(tmp_path)
        async with asyncio.timeout(30):
            while not (log.exists() and (tmp_path / "mongod.log.1").exists()):
                await asyncio.sleep(0.05)
        await write(running.url, 1)
        assert await read(running.url) == [1]
        await running.stop()

    asyncio.run(scenario())
    assert '"msg":"Shutting down"' in "".join(file.read_text() for file in tmp_path.glob("mongod.log*"))
