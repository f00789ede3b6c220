"""The supervisor goes on after what it did not foresee: no descriptors, no room in the directory, odd workers."""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from server.runtime.errors import StartError
from server.runtime.loops import in_background
from server.runtime.workers import Worker
from server.settings import DatabaseSettings, Settings
from tests.support.harness import Server, batch, wait_until

TIMEOUT_S = 30

SETTINGS = Settings(
    storage=DatabaseSettings(mongodb_url=None, database="sluice", data_dir=".", driver="motor"),
    host="127.0.0.1",
    port=0,
    grpc_port=0,
    workers=1,
    tls_cert=None,
    tls_key=None,
    tls_client_ca=None,
    log_level="info",
    log_format="console",
)


@contextmanager
def few_descriptors(pid: int) -> Iterator[None]:
    """A process can open nothing, and so start no process."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (10, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def stores(server: Server, key: str) -> bool:
    """Whether an event is stored; not if no worker accepts the connection."""
    with server.client(key) as client, suppress(httpx.ConnectError):
        return client.post("/api/v1/events", json=batch()).status_code == 201
    return False


def test_a_worker_is_replaced_once_there_are_descriptors_again(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        with few_descriptors(server.process.pid):
            (worker,) = server.worker_pids()
            os.kill(worker, signal.SIGKILL)
            failure = "start of a worker failed: OSError at "  # of uvloop, without the reason
            wait_until(lambda: server.stderr().count(failure) >= 2, "two attempts")
        wait_until(lambda: stores(server, server.first_key), "an event to be stored")
        assert server.stop() == 0


def test_the_database_is_restarted_once_its_directory_can_be_written_to(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        obstacle = tmp_path / "mongod.new"  # where the next state is written first; root may write to any directory
        obstacle.mkdir()
        (mongod,) = server.mongod_pids()
        os.kill(mongod, signal.SIGKILL)
        failure = f"start of the embedded database failed: the data directory {tmp_path} cannot be used (Is a directory"
        wait_until(lambda: server.stderr().count(failure) >= 2, "two attempts")
        obstacle.rmdir()
        wait_until(lambda: "the embedded database is back" in server.stderr(), "the database")
        wait_until(lambda: stores(server, server.first_key), "an event to be stored")
        assert server.stop() == 0


# --- what a worker writes to its stdout

READY = 'print(\'{"type":"ready"}\', flush=True)'

NOISE = """
print("no message")
print("x" * 200_000)
print('{"type":"unknown"}')
sys.stdout.buffer.write(b"\\xff\\n")
"""


def fake_worker(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Let the supervisor start this Python script as a worker. Returns a file in which it writes a line each start."""
    starts = directory / "starts"
    program = directory / "worker"
    head = f"#!{sys.executable}\nimport sys\nsettings = sys.stdin.readline()\nopen({str(starts)!r}, 'a').write('+')\n"
    program.write_text(head + script)
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return starts


async def keep_alive_until_third_start(starts: Path) -> None:
    """Start a fake worker and its successors. `starts` is the file that tells how many were started."""
    worker = Worker(SETTINGS, "mongodb://127.0.0.1/")
    async with asyncio.timeout(TIMEOUT_S):
        await worker.start()
        async with in_background(worker.keep_alive()):
            while starts.read_text().count("+") < 3:
                await asyncio.sleep(0.01)
        await worker.drain()


def test_a_worker_may_write_anything_to_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # After it is ready, it writes more than a pipe holds: it ends only if the supervisor goes on to read.
    starts = fake_worker(tmp_path, monkeypatch, f"{NOISE}\n{READY}\n{NOISE * 20}\nsys.exit(7)")

    asyncio.run(keep_alive_until_third_start(starts))
    lines = [record.getMessage() for record in caplog.records]
    assert sum("ended (status 7): replacing it" in line for line in lines) >= 2
    assert sum("a line of its stdout was skipped: " in line for line in lines) >= 2 * 20 * 4
    assert not any("no message" in line or "xxx" in line for line in lines)


def test_a_worker_that_ends_before_it_is_ready_is_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_worker(tmp_path, monkeypatch, f"{NOISE}\nsys.exit(3)")
    with pytest.raises(StartError, match=r"a worker ended before it was ready \(status 3\)"):
        asyncio.run(Worker(SETTINGS, "mongodb://127.0.0.1/").start())


def test_a_worker_that_is_killed_as_it_starts_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    killed = f"import os\nif len(open({str(tmp_path / 'starts')!r}).read()) == 2:\n    os.kill(os.getpid(), 9)\n"
    starts = fake_worker(tmp_path, monkeypatch, f"{killed}{READY}\nsys.exit(7)")

    asyncio.run(keep_alive_until_third_start(starts))
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert ("WARNING", "start of a worker failed: a worker was ended by signal 9 before it was ready") in lines
    assert "ERROR" not in dict(lines)
