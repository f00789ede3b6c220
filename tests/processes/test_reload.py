"""SIGHUP: workers are replaced one at a time, with new TLS files. `python -m tests.reloads` takes longer."""

import asyncio
import os
import signal
import ssl
import subprocess
from pathlib import Path

import pytest

from server.core.errors import ConfigurationError
from server.runtime.errors import StartError
from server.runtime.loops import in_background
from server.runtime.workers import Worker
from tests.processes.test_supervision import SETTINGS, fake_worker, stores
from tests.reloads.campaign import reload_under_load, served_certificates
from tests.support.certificates import issue, make_authority
from tests.support.harness import Server, batch, tls_options, wait_until
from tests.support.mongod import Mongod

REPLACED = "replaced 1 of 1 workers"

WAITING = """
print('{"type":"ready"}', flush=True)
sys.stdin.read()
"""

READY_ONCE = """
if open(sys.argv[0].removesuffix("worker") + "starts").read() == "+":
    print('{"type":"ready"}', flush=True)
    sys.stdin.read()
else:
    print(%r, flush=True)
    sys.exit(1)
"""


def test_under_load_nothing_is_refused_or_lost(tmp_path: Path) -> None:
    make_authority(tmp_path)
    reload_under_load(tmp_path, workers=1, reloads=2)


def test_files_that_cannot_serve_change_nothing(tmp_path: Path) -> None:
    make_authority(tmp_path)
    issue(tmp_path, "server")
    with Server(tmp_path / "data", *tls_options(tmp_path)) as server:
        pids, served = server.worker_pids(), served_certificates(server)
        good_key = (tmp_path / "server.key").read_bytes()
        (tmp_path / "server.key").write_bytes((tmp_path / "ca.key").read_bytes())
        server.process.send_signal(signal.SIGHUP)
        why = "reload on SIGHUP (what is in use stays in use) failed: "
        wait_until(lambda: f"{why}--tls-key is not the key of" in server.stderr(), "the line")
        assert server.worker_pids() == pids
        os.kill(pids[0], signal.SIGKILL)
        wait_until(lambda: server.worker_pids() not in ([], pids), "the successor")
        wait_until(lambda: accepts(server), "a successor that serves")
        assert served_certificates(server) == served
        make_key_of_rest_only(tmp_path)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: f"{why}gRPC does not take the certificate" in server.stderr(), "the line")
        assert served_certificates(server) == served
        (tmp_path / "server.key").write_bytes(good_key)
        issue(tmp_path, "server")
        for _ in range(3):  # while one is under way, the others are one more
            server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: server.stderr().count(REPLACED) >= 1, "the first reload")
        assert served_certificates(server) == {ssl.PEM_cert_to_DER_cert((tmp_path / "server.pem").read_text())}
        assert server.stop() == 0
        assert server.stderr().count(REPLACED) <= 2


def accepts(server: Server) -> bool:
    """Whether both ports serve their certificate."""
    try:
        return bool(served_certificates(server))
    except OSError:
        return False


def make_key_of_rest_only(folder: Path) -> None:
    """Make a certificate that OpenSSL takes and gRPC does not."""
    words = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp256k1", "-nodes", "-subj", "/CN=odd"]
    command = ["openssl", "req", "-x509", *words, "-keyout", "server.key", "-out", "server.pem"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("message", "error"),
    [('{"type":"misconfigured","reason":"no"}', ConfigurationError), ("", StartError)],
)
def test_a_worker_stays_if_its_successor_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, error: type[Exception]
) -> None:
    fake_worker(tmp_path, monkeypatch, READY_ONCE % message)

    async def scenario() -> None:
        worker = Worker(SETTINGS, "mongodb://127.0.0.1/")
        await worker.start()
        (process,) = worker._processes
        async with in_background(worker.keep_alive()):
            with pytest.raises(error):
                await worker.replace(SETTINGS)
            assert process.status is None
            assert not process.leaving.is_set()
        await worker.drain()

    asyncio.run(scenario())


def test_a_replaced_worker_has_one_successor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = fake_worker(tmp_path, monkeypatch, WAITING)

    async def scenario() -> None:
        worker = Worker(SETTINGS, "mongodb://127.0.0.1/")
        await worker.start()
        async with in_background(worker.keep_alive()):
            await worker.replace(SETTINGS)
            await worker.replace(SETTINGS)
            assert sum(process.status is None for process in worker._processes) == 1
            assert starts.read_text() == "+++"
        await worker.drain()

    asyncio.run(scenario())


@pytest.mark.skipif("SLUICE_LONG" not in os.environ, reason="a worker waits for its database for 10 s")
def test_a_reload_while_the_database_is_away(tmp_path: Path) -> None:
    with Mongod(tmp_path / "db") as mongod, Server(tmp_path / "data", "--mongodb-url", mongod.url) as server:
        mongod.kill()
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: REPLACED in server.stderr(), "the reload", 40)
        with server.client(server.first_key) as client:
            assert client.post("/api/v1/events", json=batch()).status_code == 503
        mongod.launch()
        wait_until(lambda: stores(server, server.first_key), "an event to be stored")
        assert server.stop() == 0
