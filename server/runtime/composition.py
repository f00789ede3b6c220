"""The composition root of a worker: it builds the database client, the core and both APIs, starts and drains them.

It is the only file that knows all of them, so each of them can be read and tested alone.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import uvicorn

from server.core.access.admission import Admission
from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.events.catalog import Catalog
from server.core.events.cursor import Cursors
from server.core.exports import Exports
from server.core.in_flight import InFlight
from server.core.ingest.ingest import Ingest
from server.core.ingest.raw import RawIngest
from server.core.jobs.store import JobLease, LeaseStore
from server.core.memory import memory_bytes, return_free_memory
from server.core.read_limits import ReadLimits
from server.core.reads import Reads
from server.core.requests import Requests
from server.core.tail.tail import Tail
from server.core.tail.tokens import ResumeTokens
from server.core.tracing import Tracer
from server.rest.app import create_app
from server.rest.http.protocol import IDLE_TIMEOUT_S, HttpProtocol
from server.rest.http.tls import protocol_over_tls
from server.rpc.server import GrpcServer
from server.runtime.background import DeploymentJob, PeriodicJob, report_health
from server.runtime.logs import log_lost_exceptions
from server.runtime.loops import forever, in_background
from server.runtime.ports import SHARED, bound_socket
from server.runtime.readiness import CHECK_INTERVAL_S, Readiness
from server.runtime.tracing import start_tracing
from server.services import Services
from server.settings import Settings
from storage.catalog import StoredCatalog
from storage.client import PrimaryWatch, close, connect, database
from storage.commands import Database, driver_errors_as_unavailable
from storage.events import Events
from storage.idempotency import IdempotencyRecords
from storage.indexes import ensure_indexes
from storage.keys import Keys
from storage.layout import check_layout, ensure_layout
from storage.leases import Leases
from storage.probe import probe
from storage.reads import StoredEvents
from storage.tail import TailHistory

SLOW_THREADS = 2
"""Threads for calls of the system that take some milliseconds. They share Python's interpreter with the event loop."""

DRAIN_TIMEOUT_S = 45
"""How long a drain waits for accepted requests. A stalled body is ended after 30 s, a database call after 10 s."""

READY_TIMEOUT_S = 2
"""How long the database may take to respond before the worker counts as not ready."""

MEMORY_INTERVAL_S = 5.0
"""How often to look whether this worker holds more memory than it needs. It takes some milliseconds if so."""

USUAL_MEMORY_BYTES = 160 * 1024 * 1024
"""What a worker under a steady load takes at most. More is the rest of a burst."""

TIDY_INTERVAL_S = 30
"""How often usage is saved and idle windows are dropped. The contract lets `last_used_at` lag a minute."""

TIDY_TIMEOUT_S = 2
"""How long either may take, because a drain waits for usage to be saved."""

INDEXES_INTERVAL_S = 60
"""How often missing indexes are looked for. Reads are slow without them."""

STALE_INTERVAL_S = 5
"""How often a worker whose database takes no writes tries a new connection."""

STALE_CHECKS = 4
"""How often in a row only a new connection works before the worker is replaced. A driver that has just lost its
connections fails a check or two as well, and is well again by itself."""

TAIL_PAUSE_S = 0.5
"""The pause after the change stream has failed: an election takes a second or two."""

log = logging.getLogger("sluice")


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
    reading_client = connect(settings.storage.mongodb_url, "pymongo")  # `storage/reads.py` says why
    reading = database(reading_client, settings.storage.database)
    tail_client = connect(settings.storage.mongodb_url, "pymongo")  # `storage/tail.py` says why
    history = TailHistory(database(tail_client, settings.storage.database))
    stored, types, limits = StoredEvents(reading), StoredCatalog(reading), ReadLimits()
    reads, exports = Reads(stored, types, limits), Exports(stored, types, limits)
    keys = Keys(storage)
    events = Events(storage)
    is_writable = Readiness(partial(probe, storage, READY_TIMEOUT_S), lambda: events.confirmed_at)
    catalog = Catalog(StoredCatalog(storage))
    tracing = start_tracing()
    services = compose_services(
        storage, events, keys, catalog, reads, exports, history, settings.cursor_secret, is_writable, tracing
    )
    rest, grpc = HttpServer(http_config(settings, services), on_ready), GrpcServer(services)
    leases, usage = Leases(storage), usage_job(keys)
    try:
        await grpc.set_serving(await is_writable.wait(stop))
        async with in_background(
            usage.run(),
            memory_job().run(),
            windows_job(keys, leases).run(),
            indexes_job(storage, leases).run(),
            stale_connections_job(settings, is_writable, stop).run(),
            report_health(is_writable, has_primary, grpc.set_serving),
            forever("change stream", services.tail.feed.run_once, TAIL_PAUSE_S),
        ):
            await serve(settings, rest, grpc, services.draining, stop)
    finally:
        await services.admission.close()
        await usage.run_once()
        await asyncio.gather(close(client), close(reading_client), close(tail_client))
        if tracing is not None:
            await tracing.flush()


def compose_services(
    storage: Database,
    events: Events,
    keys: Keys,
    catalog: Catalog,
    reads: Reads,
    exports: Exports,
    history: TailHistory,
    secret: bytes,
    is_writable: Callable[[], Awaitable[None]],
    tracer: Tracer | None = None,
) -> Services:
    """The services of a worker, on top of its database."""
    draining = asyncio.Event()

    async def check_ready() -> None:
        if draining.is_set():
            raise Unavailable(detail="This server is draining: send to another, or retry")
        await is_writable()

    admission, in_flight = Admission(keys), InFlight()
    records = IdempotencyRecords(storage)
    ingest = Ingest(admission, in_flight, events, records, catalog, tracer)
    return Services(
        requests=Requests(),
        ingest=ingest,
        ingest_raw=RawIngest(ingest, in_flight, records),
        admission=admission,
        in_flight=in_flight,
        reads=reads,
        exports=exports,
        cursors=Cursors(secret),
        tail=Tail(history, admission, ResumeTokens(secret), draining),
        check_ready=check_ready,
        tracer=tracer,
        draining=draining,
    )


def memory_job() -> PeriodicJob:
    """The job that returns memory which this worker no longer needs."""

    async def return_memory() -> None:
        if memory_bytes() > USUAL_MEMORY_BYTES:
            await asyncio.to_thread(return_free_memory)

    return PeriodicJob("return of free memory", return_memory, MEMORY_INTERVAL_S)


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


def indexes_job(storage: Database, leases: LeaseStore) -> DeploymentJob:
    """The job that makes collections and indexes that an operator has dropped.

    It may run twice at a time, so it needs no fencing.
    """

    async def make_missing_indexes(_: JobLease) -> None:
        with driver_errors_as_unavailable():
            await check_layout(storage)
            if made := [*await ensure_layout(storage), *await ensure_indexes(storage)]:
                log.warning("made what was missing: %s", ", ".join(made))

    return DeploymentJob(leases, "make_missing_indexes", make_missing_indexes, INDEXES_INTERVAL_S)


def stale_connections_job(
    settings: Settings, is_writable: Callable[[], Awaitable[None]], stop: asyncio.Event
) -> PeriodicJob:
    """The job that sets `stop`, so that the worker is replaced, if only a new client of the database can write.

    If an operator drops a user and creates it again, the database has logged out the connections that are open.
    """

    async def is_well() -> bool:
        with contextlib.suppress(Unavailable):
            await is_writable()
            return True
        return False

    async def new_client_is_well() -> bool:
        assert settings.storage.mongodb_url is not None, "the supervisor found the database"  # noqa: S101
        client = connect(settings.storage.mongodb_url, settings.storage.driver)
        with contextlib.suppress(Unavailable):
            try:
                await probe(database(client, settings.storage.database), READY_TIMEOUT_S)
                return True
            finally:
                await close(client)
        return False

    async def stop_if_stale() -> None:
        for _ in range(STALE_CHECKS):
            if await is_well() or not await new_client_is_well():
                return
            await asyncio.sleep(CHECK_INTERVAL_S)  # until the next check is a new one
        log.warning("only new connections to the database take writes: this worker is replaced")
        stop.set()

    return PeriodicJob("check of connections", stop_if_stale, STALE_INTERVAL_S)


async def serve(
    settings: Settings, rest: HttpServer, grpc: GrpcServer, draining: asyncio.Event, stop: asyncio.Event
) -> None:
    """Accept requests until `stop` is set or REST ends by itself. Then set `draining` and finish what was accepted."""
    await grpc.start(settings)
    listening = bound_socket(settings.host, settings.port, *SHARED)
    serving = asyncio.create_task(rest.serve(sockets=[listening]))
    await asyncio.wait([serving, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
    await grpc.report_draining()
    draining.set()
    rest.should_exit = True
    await asyncio.gather(serving, grpc.drain(DRAIN_TIMEOUT_S))


def http_config(settings: Settings, services: Services) -> uvicorn.Config:
    """The configuration of uvicorn: our own protocol class, and nothing of it that is not used."""
    if settings.tls_cert is None:
        protocol: Any = partial(HttpProtocol, requests=services.requests)
    else:
        protocol = protocol_over_tls(settings.tls_cert, settings.tls_key, services.requests)
    return uvicorn.Config(
        create_app(services),
        interface="asgi3",  # uvicorn would take a function that only returns an awaitable for an older interface
        http=protocol,
        ws="none",
        proxy_headers=False,
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_TIMEOUT_S,
        timeout_graceful_shutdown=DRAIN_TIMEOUT_S,
    )
