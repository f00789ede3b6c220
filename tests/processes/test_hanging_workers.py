"""A worker that hangs is replaced within 30 s, and one that drains has its successor at once."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server.runtime import worker_process
from server.runtime.loops import in_background
from server.runtime.workers import Worker
from tests.processes.test_supervision import READY, SETTINGS, fake_worker, stores
from tests.support.harness import Server, batch, command_line, wait_until
from tests.support.stalled import BODY, stalled_request

NOTICED_S = 30


@pytest.mark.slow
def test_a_stopped_worker_is_noticed_and_replaced(tmp_path: Path) -> None:
    with Server(tmp_path, "--workers", "2") as server:
        stopped, other = server.worker_pids()
        os.kill(stopped, signal.SIGSTOP)
        begin = time.monotonic()
        wait_until(lambda: stopped not in server.worker_pids(), "the end of the worker", NOTICED_S)
        assert time.monotonic() - begin > 5  # a worker that is only busy is left alone
        wait_until(lambda: len(server.worker_pids()) == 2, "its successor")
        assert other in server.worker_pids()
        assert f"worker {stopped} has not responded for " in server.stderr()
        for _ in range(8):  # each worker, by chance
            with server.client(server.first_key) as client:
                assert client.post("/api/v1/events", json=batch()).status_code == 201
        assert server.stop() == 0


def test_a_worker_that_drains_has_a_successor_at_once(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        (first,) = server.worker_pids()
        with stalled_request(server, server.first_key) as connection:
            os.kill(first, signal.SIGTERM)
            wait_until(lambda: len(server.worker_pids()) == 2, "the successor", 10)
            wait_until(lambda: f"worker {first} drains" in server.stderr(), "the log line")
            wait_until(lambda: stores(server, server.first_key), "an event to be stored")
            assert first in server.worker_pids()
            connection.sendall(BODY)
            assert connection.recv(10_000).startswith(b"HTTP/1.1 201")
        wait_until(lambda: first not in server.worker_pids(), "the end of the drain")
        assert len(server.worker_pids()) == 1
        assert server.stop() == 0


def test_a_drain_waits_for_the_predecessors_too(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        (first,) = server.worker_pids()
        with stalled_request(server, server.first_key) as connection:
            os.kill(first, signal.SIGTERM)
            wait_until(lambda: len(server.worker_pids()) == 2, "the successor", 10)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "draining" in server.stderr(), "the drain")
            connection.sendall(BODY)
            assert connection.recv(10_000).startswith(b"HTTP/1.1 201")
        assert server.process.wait(30) == 0


STUCK = f"""
import time
{READY}
while True:
    time.sleep(60)
"""


def test_a_worker_without_heartbeats_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_process, "CHECK_INTERVAL_S", 0.1)
    monkeypatch.setattr(worker_process, "MAX_SILENCE_S", 0.5)
    starts = fake_worker(tmp_path, monkeypatch, STUCK)

    async def scenario() -> None:
        worker = Worker(SETTINGS, "mongodb://127.0.0.1/")
        async with asyncio.timeout(NOTICED_S):
            await worker.start()
            async with in_background(worker.keep_alive()):
                while starts.read_text().count("+") < 3:
                    await asyncio.sleep(0.01)
            worker.kill()
            await worker.drain()

    asyncio.run(scenario())
    lines = [record.getMessage() for record in caplog.records]
    assert sum("has not responded for" in line for line in lines) >= 2
    assert sum("ended (status -9): replacing it" in line for line in lines) >= 2


SUSPENDED_S = 5.0
"""How long all processes are stopped: longer than the silence that is allowed in this test. That is much longer than it
takes to let the worker go on after the supervisor, also on a busy machine."""

SUPERVISOR = """
import asyncio, sys
from pathlib import Path
import pytest
from server.runtime import worker_process
from server.runtime.workers import Worker
from tests.processes.test_hanging_workers import BEATING
from tests.processes.test_supervision import SETTINGS, fake_worker

worker_process.CHECK_INTERVAL_S, worker_process.MAX_SILENCE_S = 0.1, 4.0
fake_worker(Path(sys.argv[1]), pytest.MonkeyPatch(), BEATING)

async def supervise():
    worker = Worker(SETTINGS, "mongodb://127.0.0.1/")
    await worker.start()
    print(worker._current.pid, flush=True)
    await worker._current.leaving.wait()
    print(worker._current.status, flush=True)

asyncio.run(supervise())
"""

BEATING = f"""
import threading, time
def beat():
    while True:
        print('{{"type":"heartbeat"}}', flush=True)
        time.sleep(0.2)
{READY}
threading.Thread(target=beat, daemon=True).start()
sys.stdin.read()
"""


def test_a_machine_that_was_suspended_loses_no_worker(tmp_path: Path) -> None:
    # Real signals stop supervisor and worker, and the supervisor goes on first. Then the worker alone is stopped.
    command = [sys.executable, "-c", SUPERVISOR, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        worker = int(supervisor.stdout.readline())
        for _ in range(2):
            for pid in (supervisor.pid, worker):
                os.kill(pid, signal.SIGSTOP)
            time.sleep(SUSPENDED_S)
            os.kill(supervisor.pid, signal.SIGCONT)
            time.sleep(0.3)
            os.kill(worker, signal.SIGCONT)
            time.sleep(0.5)
            assert command_line(worker), "the worker was killed"
        os.kill(worker, signal.SIGSTOP)
        assert supervisor.stdout.readline().strip() == f"{-signal.SIGKILL}"
        assert supervisor.wait(NOTICED_S) == 0


READY_ONCE = f"""
if len(open(__file__.replace("worker", "starts")).read()) == 1:
    {READY}
    sys.exit(1)
print('{{"type":"unloadable","reason":"ImportError: cannot import name"}}', flush=True)
sys.exit(1)
"""


def test_code_that_changed_is_one_line_that_says_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("server.runtime.workers.RESTART_DELAY_S", 0.05)
    starts = fake_worker(tmp_path, monkeypatch, READY_ONCE)

    async def scenario() -> None:
        worker = Worker(SETTINGS, "mongodb://127.0.0.1/")
        async with asyncio.timeout(NOTICED_S):
            await worker.start()
            async with in_background(worker.keep_alive()):
                while starts.read_text().count("+") < 6:
                    await asyncio.sleep(0.01)
            await worker.drain()

    asyncio.run(scenario())
    lines = [line for line in (record.getMessage() for record in caplog.records) if "cannot load" in line]
    assert len(lines) == 1
    assert "ImportError: cannot import name" in lines[0]
    assert "restart the server" in lines[0]
