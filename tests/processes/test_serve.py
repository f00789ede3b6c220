"""`sluice serve` as an operator sees it: ports, workers, signals, crashes, and which database it uses."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.harness import Json, MongoClient, Server, batch, children, command_line, sluice, wait_until
from tests.support.load import RestLoad
from tests.support.mongod import Mongod, failing_inserts


def check_stored_marks(load: RestLoad, mongo: MongoClient, key: Json) -> None:
    """All that was acknowledged is stored, each event once, and nothing is stored that was never sent."""
    assert load.bad_rejections == []
    stored = list(mongo.sluice.events.find({"_id.tenant_id": uuid.UUID(key["tenant_id"])}, {"data.mark": 1}))
    marks = [document["data"]["mark"] for document in stored]
    assert len(marks) == len(set(marks)), "stored twice"
    assert load.acknowledged_marks <= set(marks), "acknowledged and lost"
    assert load.acknowledged <= {str(document["_id"]["id"]) for document in stored}
    assert set(marks) <= load.sent


def test_first_start_prints_a_key_that_works_and_the_second_prints_none(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.client(server.first_key) as client:
        assert client.post("/api/v1/events", json=batch()).status_code == 201
        assert server.output.count("\nready ") + server.output.startswith("ready ") == 1
        assert "MongoDB 6" in server.stderr()
    with Server(tmp_path) as server:
        assert "slc_" not in server.output
        assert server.stop() == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs Debian's package curl")
def test_first_start_prints_a_command_that_works(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        pasted = next(line for line in server.output.splitlines() if "curl" in line)
        response = subprocess.run(
            ["sh", "-c", f"{pasted} -s -w '%{{http_code}}'"], capture_output=True, text=True, check=True
        )
        assert response.stdout.endswith("201")


def test_taken_port_is_one_clear_line(server: Server, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    done = sluice("serve", "--port", port, "--data-dir", str(tmp_path / "other"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"sluice: port {port} on 127.0.0.1 is taken: stop what listens there, or choose another with --port\n"
    )


def test_port_of_a_stranger_is_taken_even_if_it_shares(tmp_path: Path) -> None:
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        done = sluice("serve", "--port", str(stranger.getsockname()[1]), "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert "is taken" in done.stderr


def test_a_data_directory_is_served_once(server: Server) -> None:
    done = sluice("serve", "--port", "0", *server.database_options)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert str(server.process.pid) in done.stderr


def test_dead_worker_is_replaced_and_the_other_goes_on(server: Server, key: Json, mongo: MongoClient) -> None:
    before = server.worker_pids()
    assert len(before) == 2
    with RestLoad(server, key["key"]) as load:
        wait_until(lambda: load.statuses[201] > 20, "acknowledgements")
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: len(set(server.worker_pids()) - set(before)) == 1, "a new worker")
        reached = load.statuses[201]
        wait_until(lambda: load.statuses[201] > reached + 50, "acknowledgements after it")
    check_stored_marks(load, mongo, key)


@pytest.mark.slow
def test_kill_9_of_the_embedded_mongod_under_load(tmp_path: Path) -> None:
    with Server(tmp_path, "--workers", "2") as server:
        key = server.create_key("acme", "--rate-limit", "0")
        with RestLoad(server, key["key"]) as load, server.client() as client:
            wait_until(lambda: load.statuses[201] > 50, "acknowledgements")
            kill_mongod_until_refused(server, load)
            assert client.get("/health/live").status_code == 200
            reached = load.statuses[201]
            wait_until(lambda: load.statuses[201] > reached + 50, "acknowledgements after the crash", 60)
            wait_until(lambda: client.get("/health/ready").status_code == 200, "the client's worker to be ready")
        assert load.statuses[503] > 0
        with server.mongo() as mongo:
            check_stored_marks(load, mongo, key)
        assert server.stop() == 0


def kill_mongod_until_refused(server: Server, load: RestLoad) -> None:
    """Kill mongod again and again, until a client is rejected."""

    def rejected() -> bool:
        for pid in server.mongod_pids():
            with suppress(ProcessLookupError):  # it has ended meanwhile, of the kill before
                os.kill(pid, signal.SIGKILL)
        return load.statuses[503] > 0

    wait_until(rejected, "rejections while the database is away", 60)


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
def test_drain_under_load_loses_nothing(tmp_path: Path, driver: str) -> None:
    with Mongod(tmp_path / "db") as mongod, mongod.client() as mongo:
        server = Server(tmp_path / "data", "--workers", "2", "--mongodb-url", mongod.url, "--driver", driver).start()
        key = server.create_key("acme", "--rate-limit", "0")
        with RestLoad(server, key["key"]) as load:
            wait_until(lambda: load.statuses[201] > 100, "acknowledgements")
            assert server.stop() == 0
            wait_until(lambda: load.unanswered > 0, "clients that find no server")
        assert set(load.statuses) <= {201, 503}
        check_stored_marks(load, mongo, key)
        assert not server.worker_pids()


def test_drain_finishes_a_request_that_was_under_way(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        port = int(server.url.rpartition(":")[2])
        body = b'{"source": "slow", "events": [{"type": "a", "data": {}}]}'
        with socket.create_connection(("127.0.0.1", port)) as slow:
            head = f"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nX-API-Key: {server.first_key}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
            slow.sendall(head.encode())
            assert slow.recv(1000).startswith(b"HTTP/1.1 100")  # the server has begun to read the request
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "draining" in server.stderr(), "the drain")
            wait_until(lambda: refuses(port), "new connections to be refused")
            slow.sendall(body)
            response = slow.recv(10_000)
            assert response.startswith(b"HTTP/1.1 201")
            assert b"connection: close" in response
        assert server.process.wait(60) == 0  # a second signal would cut the drain short


def refuses(port: int) -> bool:
    """Whether the port refuses connections."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it was closed in the middle of the handshake
        return False
    return False


def test_signal_during_the_start_ends_it(tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "mongod"  # it never accepts connections
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "db version v6.0.99" && exit\nexec sleep 600\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "server", "serve", "--port", "0", "--grpc-port", "0", "--data-dir", str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_until(lambda: any("sleep" in command_line(pid) for pid in children(process.pid)), "the start of mongod")
        process.terminate()
        output, _ = process.communicate(timeout=20)
    assert (process.returncode, output) == (0, b"")


def test_tls_files_that_are_none_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("x")
    bad = str(tmp_path / "bad.pem")
    done = sluice("serve", "--tls-cert", bad, "--tls-key", bad, "--data-dir", str(tmp_path / "data"))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_ctrl_c_drains_too(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        assert server.stop(signal.SIGINT) == 0
        assert "Traceback" not in server.stderr()


@pytest.mark.slow
def test_kill_9_of_serve_leaves_nothing_running_and_the_next_start_recovers(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        key = server.first_key
        with server.client(key) as client:
            assert client.post("/api/v1/events", json=batch(5)).status_code == 201
        processes = [*server.mongod_pids(), *server.worker_pids()]
        server.stop(signal.SIGKILL)
        wait_until(lambda: not any(map(command_line, processes)), "all processes to end")
    with Server(tmp_path) as server, server.client(key) as client:
        assert len(client.get("/api/v1/events").json()) == 5


@pytest.mark.slow
def test_database_away_is_503_and_back_is_201(tmp_path: Path) -> None:
    with Mongod(tmp_path / "db") as mongod, Server(tmp_path / "data", "--mongodb-url", mongod.url) as server:
        key = server.create_key("acme")
        with server.client(key["key"]) as client:
            assert client.post("/api/v1/events", json=batch()).status_code == 201
            mongod.kill()
            written, read = client.post("/api/v1/events", json=batch()), client.get("/api/v1/events")
            for response in (written, read):
                assert response.status_code == 503
                assert int(response.headers["Retry-After"]) >= 1
                assert response.json()["code"] == "unavailable"
            assert written.json()["outcome"] == "not_stored"
            assert "outcome" not in read.json()
            ready = client.get("/health/ready")
            assert (ready.status_code, ready.json()["code"]) == (503, "unavailable")
            assert client.get("/health/live").status_code == 200
            mongod.start()
            wait_until(lambda: client.get("/health/ready").status_code == 200, "the database to be found again")
            assert client.post("/api/v1/events", json=batch()).status_code == 201
            assert len(client.get("/api/v1/events").json()) == 2


def test_frozen_database_is_an_unknown_outcome(tmp_path: Path) -> None:
    with Mongod(tmp_path / "db") as mongod, Server(tmp_path / "data", "--mongodb-url", mongod.url) as server:
        key = server.create_key("acme")
        with server.client(key["key"]) as client, mongod.client() as mongo:
            assert client.post("/api/v1/events", json=batch()).status_code == 201
            # Keys are found, but an insert of events blocks until its deadline.
            with failing_inserts(mongo, 1, blockConnection=True, blockTimeMS=30_000):
                response = client.post("/api/v1/events", json=batch())
            assert (response.status_code, response.json()["outcome"]) == (503, "unknown")
            assert 9 < response.elapsed.total_seconds() < 20


def test_unfit_databases_are_rejected_in_one_line(tmp_path: Path) -> None:
    with Mongod(tmp_path / "db", standalone=True) as mongod:
        done = sluice("serve", "--port", "0", "--mongodb-url", mongod.url)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("sluice: --mongodb-url names a standalone server")
        assert len(done.stderr.splitlines()) == 1
    done = sluice("serve", "--port", "0", "--mongodb-url", mongod.url)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_workers_and_keys_share_an_outside_database(tmp_path: Path) -> None:
    with Mongod(tmp_path / "db") as mongod:
        first = Server(tmp_path / "one", "--mongodb-url", mongod.url)
        second = Server(tmp_path / "two", "--mongodb-url", mongod.url, "--driver", "pymongo")
        with first, second:
            assert f"at 127.0.0.1:{mongod.port}" in first.stderr()
            key = first.create_key("acme")
            with first.client(key["key"]) as one, second.client(key["key"]) as two:
                posted = one.post("/api/v1/events", json=batch()).json()["events"][0]["id"]
                assert [item["id"] for item in two.get("/api/v1/events").json()] == [posted]
                assert sluice("keys", "revoke", key["id"], *first.database_options).returncode == 0
                assert [client.get("/api/v1/events").status_code for client in (one, two)] == [401, 401]
