"""A drain over gRPC: calls that never end by themselves, calls that arrive meanwhile, and health at the start."""

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from sluice.v1 import event_service_pb2 as pb

from tests.abuse.http2 import END_HEADERS, HEADERS, INGEST, call_headers, data_frames, frame, message, open_http2
from tests.support.grpc_client import (
    SERVICE,
    Stream,
    channel_to,
    code_of,
    good_batch,
    health_of,
    ingest,
    metadata,
    stored_marks,
    stub_of,
)
from tests.support.harness import Server, tls_options, wait_until
from tests.support.logs import assert_no_internal_errors
from tests.support.mongod import Mongod
from tests.support.pressure import STORED, UnaryRequest, held_inserts

DRAIN_S = 15
"""Much less than a stalled message may take. The drain itself lingers for 0.7 s."""

CHECK = b"/grpc.health.v1.Health/Check"
WATCH = b"/grpc.health.v1.Health/Watch"
REFLECTION = b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


def test_drain_ends_calls_that_never_end(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        key = (b"x-api-key", server.first_key.encode())
        begun = message(b"x" * 100, 1_000)
        calls = [(INGEST, begun), (CHECK, begun), (WATCH, message(b"")), (WATCH, begun), (REFLECTION, b"")]
        calls.append((f"/{SERVICE}/StreamEvents".encode(), begun))
        connections = [open_http2(server) for _ in calls]
        for connection, (path, payload) in zip(connections, calls, strict=True):
            connection.sendall(frame(HEADERS, END_HEADERS, 1, call_headers(key, path=path)))
            connection.sendall(data_frames(1, payload))
        time.sleep(1)
        begun_at = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun_at < DRAIN_S
        for connection in connections:
            connection.close()
        assert_no_internal_errors(server)


class HammeringClients:
    """Threads that make unary calls one after the other until they are told to stop."""

    def __init__(self, channels: list[grpc.Channel], secret: str, threads: int) -> None:
        self._channels = channels
        self._secret = secret
        self._marks = iter(range(10**9))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]
        self.acknowledged: set[int] = set()
        self.codes: Counter[str] = Counter()
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        stub = stub_of(self._channels[number % len(self._channels)])
        while not self._stop.is_set():
            with self._lock:
                mark = next(self._marks)
            request = pb.IngestEventsRequest(batch=good_batch([mark]))
            try:
                stub.IngestEvents(request, metadata=metadata(self._secret), timeout=20)
                outcome = "OK"
            except grpc.RpcError as error:
                outcome = code_of(error).name
            with self._lock:
                self.codes[outcome] += 1
                if outcome == "OK":
                    self.acknowledged.add(mark)

    def finish(self) -> None:
        """Tell the threads to stop, and wait until they have."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.parametrize("tls", [False, True])
def test_calls_that_arrive_during_a_drain(tmp_path: Path, certificates: Path, tls: bool) -> None:
    with Server(tmp_path, *(tls_options(certificates) if tls else [])) as server, server.mongo() as mongo:
        key = server.create_key("acme", "--rate-limit", "0")
        if tls:
            trust = grpc.ssl_channel_credentials((certificates / "ca.pem").read_bytes())
            own = [("grpc.use_local_subchannel_pool", 1)]
            channels = [grpc.secure_channel(server.grpc, trust, options=own) for _ in range(4)]
        else:
            channels = [channel_to(server.grpc) for _ in range(4)]
        clients = HammeringClients(channels, key["key"], threads=16)
        wait_until(lambda: len(clients.acknowledged) > 200, "acknowledgements")
        before = set(server.worker_pids())
        (worker,) = before

        os.kill(worker, signal.SIGTERM)
        wait_until(lambda: not before & set(server.worker_pids()), "the worker's end")
        wait_until(lambda: server.worker_pids(), "a new worker")
        clients.finish()
        assert set(clients.codes) <= {"OK", "UNAVAILABLE"}, clients.codes
        assert clients.acknowledged <= set(stored_marks(mongo, key))
        for channel in channels:
            channel.close()
        assert_no_internal_errors(server)


def test_health_is_serving_once_ready(tmp_path: Path) -> None:
    with Server(tmp_path) as server, channel_to(server.grpc) as channel:
        for name in ("", SERVICE):
            response = health_of(channel).Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            assert response.status == health_pb2.HealthCheckResponse.SERVING


def test_stream_that_opens_during_a_drain(tmp_path: Path) -> None:
    """A call whose insert is held up keeps the drain from its end."""
    with (
        Mongod(tmp_path / "db") as mongod,
        mongod.client() as mongo,
        Server(tmp_path / "data", "--mongodb-url", mongod.url) as server,
        channel_to(server.grpc) as channel,
    ):
        key = server.create_key("acme")
        assert ingest(channel, key["key"]).events_received == 1
        with held_inserts(mongo) as under_way:
            waiting = UnaryRequest(channel, key, 1)
            wait_until(lambda: under_way() == 1, "an insert")
            server.process.terminate()
            wait_until(lambda: "draining" in server.stderr(), "the drain")
            with pytest.raises(grpc.RpcError) as caught, Stream(channel, key["key"]) as stream:
                stream.receive()
        assert code_of(caught.value) == grpc.StatusCode.UNAVAILABLE
        assert isinstance(caught.value, grpc.Call)
        assert "draining" in (caught.value.details() or "")
        assert waiting.response().code == STORED
