"""Signals as operators and service managers send them: to all processes at once, twice, and from a closed terminal."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.harness import Server, batch, command_line, wait_until
from tests.support.stalled import BODY, stalled_request

AT_ONCE_S = 10
"""The longest end after a second signal. A drain would wait for 30 s for the stalled body."""


def stores(server: Server) -> bool:
    with server.client(server.first_key) as client:
        return client.post("/api/v1/events", json=batch()).status_code == 201


def all_pids(server: Server) -> list[int]:
    return [server.process.pid, *server.worker_pids(), *server.mongod_pids()]


def test_a_second_signal_ends_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    with Server(tmp_path, "--workers", "2") as server:
        first_key, others = server.first_key, all_pids(server)[1:]
        with stalled_request(server, first_key):
            for _ in range(2):
                server.process.send_signal(signal.SIGINT)
                wait_until(lambda: "draining" in server.stderr(), "the drain")
            assert server.process.wait(AT_ONCE_S) == 1
            assert not any(map(command_line, others))
        assert "second signal" in server.stderr()
    with Server(tmp_path) as server, server.client(first_key) as client:
        assert client.post("/api/v1/events", json=batch()).status_code == 201
        assert server.stop() == 0


def test_three_signals_are_as_two(tmp_path: Path) -> None:
    with Server(tmp_path) as server, stalled_request(server, server.first_key):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            server.process.send_signal(number)
            time.sleep(0.05)
        assert server.process.wait(AT_ONCE_S) == 1


def test_sighup_is_for_the_supervisor_alone(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        supervisor, worker, mongod = all_pids(server)
        os.kill(worker, signal.SIGHUP)
        assert stores(server)
        assert all_pids(server) == [supervisor, worker, mongod]
        os.kill(supervisor, signal.SIGHUP)
        wait_until(lambda: "replaced 1 of 1 workers" in server.stderr(), "the reload")
        assert stores(server)
        assert worker not in all_pids(server)
        assert mongod in all_pids(server)
        assert server.stop() == 0


@pytest.mark.slow
def test_sigterm_to_all_processes_is_a_drain(tmp_path: Path) -> None:
    with Server(tmp_path, "--workers", "2") as server:
        with stalled_request(server, server.first_key) as connection:
            before = set(all_pids(server))
            for pid in before:
                os.kill(pid, signal.SIGTERM)
            wait_until(lambda: "ended before the drain did" in server.stderr(), "the end of the database")
            connection.sendall(BODY)
            assert connection.recv(10_000).startswith(b"HTTP/1.1 503")
            assert set(all_pids(server)) <= before  # no process was started
        assert server.process.wait(60) == 0
        log = server.stderr()
        assert "restarting" not in log
        assert "successor" not in log
    with Server(tmp_path) as server:
        assert server.stop() == 0


def test_sigterm_to_all_processes_answers_what_needs_no_database_any_more(tmp_path: Path) -> None:
    with Server(tmp_path, "--workers", "2") as server:
        assert stores(server)
        for pid in all_pids(server):
            os.kill(pid, signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert "restarting" not in server.stderr()
