"""gRPC over the life of processes: drains, crashes of client, worker and database, TLS, ports."""

import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2

from tests.support.grpc_client import (
    SERVICE,
    Stream,
    channel_to,
    code_of,
    details_of,
    good_batch,
    health_of,
    ingest,
    marks_stored_once,
    reason_of,
)
from tests.support.harness import Json, MongoClient, Server, batch, command_line, sluice, tls_options, wait_until
from tests.support.load import StreamLoad
from tests.support.logs import assert_no_internal_errors
from tests.support.mongod import Mongod

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
def test_drain_under_load_answers_all_that_was_taken(tmp_path: Path, driver: str) -> None:
    with Mongod(tmp_path / "db") as mongod, mongod.client() as mongo:
        server = Server(tmp_path / "data", "--workers", "2", "--mongodb-url", mongod.url, "--driver", driver).start()
        key = server.create_key("acme", "--rate-limit", "0")
        with StreamLoad(server.grpc, key["key"], streams=6) as load:
            wait_until(lambda: load.answered_streams == 6, "responses on each stream")
            wait_until(lambda: len(load.acknowledged_marks) > 500, "acknowledgements")
            assert server.stop() == 0
            wait_until(lambda: len(load.endings) == 6, "the streams to end")
        assert load.errors == []
        for ending in load.endings:
            assert ending is not None
            assert code_of(ending) == grpc.StatusCode.UNAVAILABLE
            details = details_of(ending)
            assert details["ErrorInfo"].reason == "UNAVAILABLE"
            assert details["ErrorInfo"].metadata["outcome"] == "not_stored"
            assert details["RetryInfo"].retry_delay.seconds >= 1
        stored = marks_stored_once(mongo, key)
        assert load.acknowledged_marks == stored  # every batch that the server read got a response
        assert stored <= load.sent
        assert_no_internal_errors(server)
        assert not server.worker_pids()


def test_half_close_under_load_ends_well(server: Server, key: Json, mongo: MongoClient) -> None:
    with StreamLoad(server.grpc, key["key"]) as load:
        wait_until(lambda: len(load.acknowledged_marks) > 200, "acknowledgements")
    assert load.endings == [None] * 4
    assert load.acknowledged_marks == load.sent == marks_stored_once(mongo, key)


@pytest.mark.slow
def test_kill_9_of_a_client_in_mid_stream(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.mongo() as mongo:
        other = server.create_key("other", "--rate-limit", "0")
        with StreamLoad(server.grpc, other["key"], streams=2) as load:
            for number in range(
                3
            ):  # each with its own tenant: batches that the server has read may still be stored after the kill
                victim = server.create_key(f"victim-{number}", "--rate-limit", "0")
                acknowledged = killed_client(server, victim["key"])
                assert acknowledged <= marks_stored_once(mongo, victim)
            reached = len(load.acknowledged_marks)
            wait_until(lambda: len(load.acknowledged_marks) > reached + 100, "the other streams to go on")
            with channel_to(server.grpc) as channel, Stream(channel, victim["key"]) as stream:
                stream.send(1, good_batch())
                assert stream.receive().HasField("receipt")
        assert load.endings == [None, None]
        assert load.acknowledged_marks == marks_stored_once(mongo, other)
    assert server.process.returncode == 0
    assert_no_internal_errors(server)


def killed_client(server: Server, secret: str) -> set[int]:
    """The marks that were acknowledged to a streaming process until it was killed."""
    arguments = [sys.executable, "-m", "tests.support.endless_stream", server.grpc, secret]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        acknowledged = {int(client.stdout.readline()) for _ in range(100)}
        client.kill()
        return acknowledged | {int(line) for line in client.stdout if line.endswith("\n")}


def test_kill_9_of_a_worker_in_mid_stream(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.mongo() as mongo:
        key = server.create_key("acme", "--rate-limit", "0")
        with StreamLoad(server.grpc, key["key"], streams=2) as load:
            wait_until(lambda: load.answered_streams == 2, "responses on each stream")
            wait_until(lambda: len(load.acknowledged_marks) > 100, "acknowledgements")
            (before,) = server.worker_pids()
            os.kill(before, signal.SIGKILL)
            wait_until(lambda: len(load.endings) == 2, "the streams to end")
            assert [code_of(ending) for ending in load.endings if ending] == [grpc.StatusCode.UNAVAILABLE] * 2
        wait_until(lambda: server.worker_pids() not in ([], [before]), "a new worker")
        with channel_to(server.grpc) as channel:
            assert ingest(channel, server.first_key, wait_for_ready=True).events_received == 1
        assert not command_line(before)
        stored = marks_stored_once(mongo, key)
        assert load.acknowledged_marks <= stored <= load.sent


def test_health_follows_the_database(tmp_path: Path) -> None:
    with Mongod(tmp_path / "db") as mongod, Server(tmp_path / "data", "--mongodb-url", mongod.url) as server:
        key = server.create_key("acme")
        with channel_to(server.grpc) as channel, Stream(channel, key["key"]) as stream:
            watches = [health_of(channel).Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", SERVICE)]
            for watch in watches:
                until(watch, SERVING)
            stream.send(1, good_batch())
            assert stream.receive().HasField("receipt")
            mongod.kill()
            for watch in watches:
                until(watch, NOT_SERVING)
            stream.send(2, good_batch())
            with pytest.raises(grpc.RpcError) as caught:
                ingest(channel, key["key"])
            assert code_of(caught.value) == grpc.StatusCode.UNAVAILABLE
            rejected = stream.receive()
            assert (rejected.sequence, rejected.error.code) == (2, grpc.StatusCode.UNAVAILABLE.value[0])
            for error in (caught.value, rejected.error):
                details = details_of(error)
                assert details["ErrorInfo"].reason == "UNAVAILABLE"
                assert details["ErrorInfo"].metadata["outcome"] == "not_stored"
                assert details["RetryInfo"].retry_delay.seconds >= 1
            mongod.start()
            for watch in watches:
                until(watch, SERVING)
            assert ingest(channel, key["key"]).events_received == 1
            stream.send(3, good_batch())  # the stream still works
            assert stream.receive().HasField("receipt")
            for watch in watches:
                watch.cancel()


def until(watch: Iterator[health_pb2.HealthCheckResponse], status: int) -> None:
    """Wait until the watched health is `status`."""
    assert any(response.status == status for response in watch)


def test_taken_grpc_port_is_one_clear_line(server: Server, tmp_path: Path) -> None:
    port = server.grpc.rpartition(":")[2]
    done = sluice("serve", "--port", "0", "--grpc-port", port, "--data-dir", str(tmp_path / "other"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"sluice: port {port} on 127.0.0.1 is taken: stop what listens there, or choose another with --grpc-port\n"
    )


def secure_channel(server: Server, certificates: Path, client: str | None = None) -> grpc.Channel:
    """A channel that trusts the authority, with the certificate of `client` if given."""
    pair = [(certificates / f"{client}.{kind}").read_bytes() for kind in ("key", "pem")] if client else [None, None]
    credentials = grpc.ssl_channel_credentials((certificates / "ca.pem").read_bytes(), *pair)
    return grpc.secure_channel(server.grpc, credentials)


def post(server: Server, certificates: Path) -> int:
    """The status over REST of a batch from a client without a certificate."""
    trust = ssl.create_default_context(cafile=certificates / "ca.pem")
    with server.client(server.first_key, verify=trust) as client:
        return client.post("/api/v1/events", json=batch()).status_code


def test_tls_on_both_ports(tmp_path: Path, certificates: Path) -> None:
    with Server(tmp_path, *tls_options(certificates)) as server:
        assert server.url.startswith("https://")
        assert post(server, certificates) == 201
        with secure_channel(server, certificates) as channel:
            assert ingest(channel, server.first_key).events_received == 1
        with channel_to(server.grpc) as plain, pytest.raises(grpc.RpcError) as caught:
            ingest(plain, server.first_key)
        assert code_of(caught.value) == grpc.StatusCode.UNAVAILABLE
        with pytest.raises(httpx.TransportError), httpx.Client(trust_env=False) as client:
            client.get(server.url.replace("https:", "http:") + "/health/live")


def test_client_certificates_are_for_grpc(tmp_path: Path, certificates: Path) -> None:
    authority = str(certificates / "ca.pem")
    with Server(tmp_path, *tls_options(certificates), "--tls-client-ca", authority) as server:
        assert post(server, certificates) == 201
        with secure_channel(server, certificates) as nobody, pytest.raises(grpc.RpcError) as caught:
            ingest(nobody, server.first_key)
        assert code_of(caught.value) == grpc.StatusCode.UNAVAILABLE
        with secure_channel(server, certificates, "client") as channel:
            assert ingest(channel, server.first_key).events_received == 1
            with pytest.raises(grpc.RpcError) as caught:  # a certificate is no key
                ingest(channel, "nonsense")
            assert reason_of(caught.value) == "UNAUTHENTICATED"


def test_client_authority_without_tls_is_one_clear_line(tmp_path: Path, certificates: Path) -> None:
    done = sluice("serve", "--tls-client-ca", str(certificates / "ca.pem"), "--data-dir", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "sluice: --tls-client-ca needs TLS: give --tls-cert and --tls-key too\n"
