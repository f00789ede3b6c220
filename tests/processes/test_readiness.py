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
        wait_until(lambda: ready(host.server) == 503, "not ready", 5)
        wait_until(lambda: health(host.server) == NOT_SERVING, "not serving", 8)
        assert host.mongo.admin.command("ping")["ok"]
    wait_until(lambda: ready(host.server) == 200, "ready", 10)
    wait_until(lambda: health(host.server) == SERVING, "serving", 10)
    assert f"MongoDB code {code}" in host.server.stderr()


def test_a_replaced_worker_is_serving_as_soon_as_it_accepts(host: Host) -> None:
    (worker,) = host.server.worker_pids()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: host.server.worker_pids() not in ([], [worker]), "another worker")
    assert health(host.server) == SERVING
    with host.server.client(host.server.first_key) as client:
        assert client.post("/api/v1/events", json=batch()).status_code == 201


def test_checks_are_shared_and_at_most_one_an_interval() -> None:
    async def scenario() -> None:
        started = list[float]()
        fails = False

        async def probe() -> None:
            started.append(time.monotonic())
            await asyncio.sleep(0.01)
            if fails:
                raise Unavailable(detail="no")

        readiness = Readiness(probe, interval_s=0.2)
        await asyncio.gather(*(readiness() for _ in range(100)))
        await readiness()
        assert len(started) == 1
        fails = True
        await asyncio.sleep(0.2)
        results = await asyncio.gather(*(readiness() for _ in range(100)), return_exceptions=True)
        assert [str(result) for result in results] == ["no"] * 100
        assert len(set(map(id, results))) == 100  # each request adds its own to it
        assert len(started) == 2
        fails = False
        waiting = asyncio.create_task(readiness.wait(asyncio.Event()))
        assert await waiting
        assert started[2] - started[1] >= 0.2

    asyncio.run(scenario())


def test_a_write_that_was_confirmed_is_as_good_as_a_check() -> None:
    async def scenario() -> None:
        checks, confirmed_at = 0, 0.0

        async def probe() -> None:
            nonlocal checks
            checks += 1
            raise Unavailable(detail="no")

        readiness = Readiness(probe, lambda: confirmed_at, interval_s=0.2)
        with pytest.raises(Unavailable):
            await readiness()
        confirmed_at = time.monotonic()
        await readiness()
        assert checks == 1
        await asyncio.sleep(0.2)
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
