"""The composition root of a worker: it builds the database client, the core and both APIs, starts and drains them.

It is the only file that knows all of them, so each of them can be read and tested alone.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import uvicorn

from server.core.access.admission import Admission
from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.in_flight import InFlight
from server.core.ingest.ingest import Ingest
from server.core.jobs.store import JobLease, LeaseStore
from server.rest.app import create_app
from server.rest.http.protocol import HttpProtocol
from server.rpc.server import GrpcServer
from server.runtime.background import DeploymentJob, PeriodicJob, report_health
from server.runtime.logs import log_lost_exceptions
from server.runtime.loops import in_background
from server.runtime.ports import bound_socket
from server.services import Services
from server.settings import Settings
from storage.client import Client, PrimaryWatch, close, connect, database, ping
from storage.commands import Database
from storage.events import Events
from storage.idempotency import IdempotencyRecords
from storage.keys import Keys
from storage.leases import Leases

SLOW_THREADS = 2
"""Threads that decode bad batches. They share Python's interpreter with the event loop, in turns of 5 ms. More threads
would slow down the loop."""

KEEP_ALIVE_S = 65
"""How long an idle connection is kept. Common load balancers keep theirs for 60 s, and must close first."""

DRAIN_TIMEOUT_S = 45
"""How long a drain waits for accepted requests. A stalled body is ended after 30 s, a database call after 10 s."""

READY_TIMEOUT_S = 2
"""How long the database may take to respond before the worker counts as not ready."""

TIDY_INTERVAL_S = 30
"""How often usage is saved and idle windows are dropped. The contract lets `last_used_at` lag a minute."""

TIDY_TIMEOUT_S = 2
"""How long either may take, because a drain waits for usage to be saved."""


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handling, since the worker has its own, and with a call once it accepts requests."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept requests, then call `on_started`."""
        await super().startup(sockets)
        self._on_started()

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """Leave signals alone."""
        return contextlib.nullcontext()


async def run_worker(settings: Settings, on_ready: Callable[[], None], stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then drain. `on_ready` is called once requests are accepted."""
    loop = asyncio.get_running_loop()
    log_lost_exceptions(loop)
    loop.set_default_executor(ThreadPoolExecutor(SLOW_THREADS, "slow"))
    has_primary: asyncio.Queue[bool] = asyncio.Queue()
    watch = PrimaryWatch(lambda has: loop.call_soon_threadsafe(has_primary.put_nowait, has))
    assert settings.storage.mongodb_url is not None, "the supervisor found the database"  # noqa: S101
    client = connect(settings.storage.mongodb_url, settings.storage.driver, event_listeners=[watch])
    storage = database(client, settings.storage.database)
    keys = Keys(storage)
    services = compose_services(client, storage, keys)
    rest, grpc = HttpServer(http_config(settings, services), on_ready), GrpcServer(services)
    usage, windows = usage_job(keys), windows_job(keys, Leases(storage))
    try:
        async with in_background(usage.run(), windows.run(), report_health(client, has_primary, grpc.set_serving)):
            await serve(settings, rest, grpc, services.draining, stop)
    finally:
        await services.admission.close()
        await usage.run_once()
        await close(client)


def compose_services(client: Client, storage: Database, keys: Keys) -> Services:
    """The services of a worker, on top of its database."""
    draining = asyncio.Event()

    async def check_ready() -> None:
        if draining.is_set():
            raise Unavailable("not_stored", "This server is draining: send to another, or retry")
        await ping(client, READY_TIMEOUT_S)

    admission, in_flight, events = Admission(keys), InFlight(), Events(storage)
    return Services(
        ingest=Ingest(admission, in_flight, events, IdempotencyRecords(storage)),
        admission=admission,
        in_flight=in_flight,
        events=events,
        check_ready=check_ready,
        draining=draining,
    )


def usage_job(keys: Keys) -> PeriodicJob:
    """The job that saves which keys this worker has seen in use."""

    async def save_usage() -> None:
        await keys.save_usage(Deadline(TIDY_TIMEOUT_S))

    return PeriodicJob("save_usage", save_usage, TIDY_INTERVAL_S)


def windows_job(keys: Keys, leases: LeaseStore) -> DeploymentJob:
    """The job that drops rate-limit windows of idle keys. It drops what no longer counts, so it needs no fencing."""

    async def drop_idle_windows(_: JobLease) -> None:
        await keys.drop_idle_windows(Deadline(TIDY_TIMEOUT_S))

    return DeploymentJob(leases, "drop_idle_windows", drop_idle_windows, TIDY_INTERVAL_S)


async def serve(
    settings: Settings, rest: HttpServer, grpc: GrpcServer, draining: asyncio.Event, stop: asyncio.Event
) -> None:
    """Accept requests until `stop` is set or REST ends by itself. Then set `draining` and finish what was accepted."""
    await grpc.start(settings)
    listening = bound_socket(settings.host, settings.port, socket.SO_REUSEPORT)
    serving = asyncio.create_task(rest.serve(sockets=[listening]))
    await asyncio.wait([serving, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
    await grpc.report_draining()
    draining.set()
    rest.should_exit = True
    await asyncio.gather(serving, grpc.drain(DRAIN_TIMEOUT_S))


def http_config(settings: Settings, services: Services) -> uvicorn.Config:
    """The configuration of uvicorn: our own protocol class, and nothing of it that is not used."""
    return uvicorn.Config(
        create_app(services),
        interface="asgi3",  # uvicorn would take a function that only returns an awaitable for an older interface
        http=HttpProtocol,
        ws="none",
        proxy_headers=False,
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_TIMEOUT_S,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
