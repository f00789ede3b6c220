"""Readiness and gRPC health follow whether the database takes writes."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from server.core.errors import Unavailable
from server.runtime.readiness import Readiness
from tests.support.grpc_client import SERVICE, channel_to, health_of
from tests.support.harness import MongoClient, Server, batch, wait_until
from tests.support.mongod import Mongod, fail_point

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


class Host(NamedTuple):
    server: Server
    mongod: Mongod
    mongo: MongoClient


@pytest.fixture(scope="module", params=["motor", "pymongo"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    path = tmp_path_factory.mktemp("host")
    with ExitStack() as stack:
        mongod = stack.enter_context(Mongod(path / "db"))
        mongo = stack.enter_context(mongod.client())
        server = stack.enter_context(Server(path / "data", "--mongodb-url", mongod.url, "--driver", request.param))
        yield Host(server, mongod, mongo)


def health(server: Server) -> int:
    with channel_to(server.grpc) as channel:
        status: int = (
            health_of(channel).Check(HealthCheckRequest(service=SERVICE), timeout=10, wait_for_ready=True).status
        )
        return status


def ready(server: Server) -> int:
    with server.client() as client:
        answer = client.get("/health/ready")
        if answer.status_code == 503:
            assert "outcome" not in answer.json()
            assert answer.headers["Retry-After"]
        return answer.status_code


def test_both_are_well_with_the_ready_line(host: Host) -> None:
    assert health(host.server) == SERVING
    assert ready(host.server) == 200


@pytest.mark.parametrize("code", [8000, 13, 18, 14031, 10107])
@pytest.mark.parametrize("kind", ["refused", "no majority"])
def test_neither_is_well_while_every_write_fails(host: Host, code: int, kind: str) -> None:
    error = {"errorCode": code} if kind == "refused" else {"writeConcernError": {"code": code, "errmsg": "x"}}
    with fail_point(host.mongo, "failCommand", failCommands=["insert"], appName="sluice", **error):
        wait_until(lambda: ready(host.server) == 503, "not ready")
        wait_until(lambda: health(host.server) == NOT_SERVING, "not serving")
        assert host.mongo.admin.command("ping")["ok"]
    wait_until(lambda: ready(host.server) == 200, "ready")
    wait_until(lambda: health(host.server) == SERVING, "serving")
    assert f"MongoDB code {code}" in host.server.stderr()


def test_a_replaced_worker_is_serving_as_soon_as_it_accepts(host: Host) -> None:
    (worker,) = host.server.worker_pids()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: host.server.worker_pids() not in ([], [worker]), "another worker")
    assert health(host.server) == SERVING
    with host.server.client(host.server.first_key) as client:
        assert client.post("/api/v1/events", json=batch()).status_code == 201


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What `Readiness` takes for the time."""
    clock = Clock()
    monkeypatch.setattr("server.runtime.readiness.monotonic", clock)
    return clock


def test_checks_are_shared_and_at_most_one_an_interval(clock: Clock) -> None:
    async def scenario() -> None:
        checks, fails = 0, False

        async def probe() -> None:
            nonlocal checks
            checks += 1
            await asyncio.sleep(0.01)
            if fails:
                raise Unavailable(detail="no")

        readiness = Readiness(probe, interval_s=2)
        await asyncio.gather(*(readiness() for _ in range(100)))
        clock.now += 1
        await readiness()
        assert checks == 1
        fails = True
        clock.now += 1
        results = await asyncio.gather(*(readiness() for _ in range(100)), return_exceptions=True)
        assert [str(result) for result in results] == ["no"] * 100
        assert len(set(map(id, results))) == 100  # each request adds its own to it
        assert checks == 2

    asyncio.run(scenario())


def test_a_wait_for_the_first_success_checks_once_an_interval() -> None:
    async def scenario() -> None:
        started = list[float]()

        async def probe() -> None:
            started.append(time.monotonic())
            if len(started) == 1:
                raise Unavailable(detail="no")

        assert await Readiness(probe, interval_s=0.2).wait(asyncio.Event())
        assert started[1] - started[0] >= 0.2

    asyncio.run(scenario())


def test_a_write_that_was_confirmed_is_as_good_as_a_check(clock: Clock) -> None:
    async def scenario() -> None:
        checks, confirmed_at = 0, 0.0

        async def probe() -> None:
            nonlocal checks
            checks += 1
            raise Unavailable(detail="no")

        readiness = Readiness(probe, lambda: confirmed_at, interval_s=2)
        with pytest.raises(Unavailable):
            await readiness()
        confirmed_at = clock.now
        clock.now += 1
        await readiness()
        assert checks == 1
        clock.now += 1
        with pytest.raises(Unavailable):
            await readiness()
        assert checks == 2

    asyncio.run(scenario())


def test_a_start_is_not_held_up_by_a_stop() -> None:
    async def scenario() -> None:
        async def probe() -> None:
            raise Unavailable

        stop = asyncio.Event()
        stop.set()
        assert not await Readiness(probe).wait(stop)

    asyncio.run(scenario())
