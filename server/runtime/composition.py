"""The composition root of a worker: it builds the database client, the core and both APIs, starts and drains them.

It is the only file that knows all of them, so each of them can be read and tested alone.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import uvicorn

from server.core.access.admission import Admission
from server.core.alerts.reads import AlertReads
from server.core.errors import Unavailable
from server.core.events.catalog import Catalog
from server.core.events.cursor import Cursors
from server.core.exports import Exports
from server.core.in_flight import LIMITS, InFlight
from server.core.ingest.ingest import Ingest
from server.core.ingest.raw import RawIngest
from server.core.read_limits import ReadLimits
from server.core.reads import Reads
from server.core.rejections.reads import RejectionReads
from server.core.requests import Requests
from server.core.rules.rules import Rules
from server.core.tail.tail import MAX_TAILS, Tail
from server.core.tail.tokens import ResumeTokens
from server.core.tracing import Tracer
from server.core.usage.reads import UsageReads
from server.core.webhooks.addresses import Guard
from server.core.webhooks.webhooks import Webhooks
from server.rest.app import create_app
from server.rest.http.protocol import IDLE_TIMEOUT_S, HttpProtocol
from server.rest.http.tls import protocol_over_tls
from server.rpc.open_streams import MAX_OPEN_STREAMS
from server.rpc.server import GrpcServer
from server.runtime.activity import SavedActivity
from server.runtime.background import report_health
from server.runtime.http_server import HttpServer, uvicorn_config
from server.runtime.jobs import (
    deletions_job,
    deliveries_job,
    evaluation_job,
    indexes_job,
    memory_job,
    presence_job,
    retention_job,
    stale_connections_job,
    usage_job,
    windows_job,
)
from server.runtime.logs import log_lost_exceptions
from server.runtime.loops import forever, in_background
from server.runtime.metrics.recorder import Recorder, open_slot
from server.runtime.metrics.sampler import Levels, Sampler
from server.runtime.names import SystemResolver
from server.runtime.ports import SHARED, bound_socket, prefer_newest
from server.runtime.readiness import READY_TIMEOUT_S, Readiness
from server.runtime.tracing import start_tracing
from server.services import Services
from server.settings import Settings
from storage.alerts import StoredAlerts
from storage.catalog import StoredCatalog
from storage.client import PrimaryWatch, close, connect, database
from storage.commands import Database
from storage.deliveries import StoredDeliveries
from storage.events import Events
from storage.idempotency import IdempotencyRecords
from storage.keys import Keys
from storage.leases import Leases
from storage.measurements import StoredMeasurements
from storage.probe import probe
from storage.reads import StoredEvents
from storage.rejections import StoredRejections
from storage.rules import StoredRules
from storage.tail import TailHistory
from storage.usage import StoredUsage
from storage.webhooks import StoredWebhooks

SLOW_THREADS = 2
"""Threads for calls of the system that take some milliseconds. They share Python's interpreter with the event loop."""

DRAIN_TIMEOUT_S = 45
"""How long a drain waits for accepted requests. A stalled body is ended after 30 s, a database call after 10 s."""

TAIL_PAUSE_S = 0.5
"""The pause after the change stream has failed: an election takes a second or two."""

log = logging.getLogger("sluice")


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
    keys = Keys(storage)
    events = Events(storage)
    is_writable = Readiness(partial(probe, storage, READY_TIMEOUT_S), lambda: events.confirmed_at)
    catalog = Catalog(StoredCatalog(storage))
    guard = Guard(settings.webhook_allow)
    readers, tracing = compose_readers(reading, guard), start_tracing()
    services = compose_services(
        storage, events, keys, catalog, readers, history, settings.cursor_secret, is_writable, tracing
    )
    activity = SavedActivity(storage, services.requests)

    def on_listening() -> None:
        prefer_newest((settings.port, settings.grpc_port), settings.workers)
        on_ready()

    rest, grpc = HttpServer(http_config(settings, services), on_listening), GrpcServer(services)
    numbers = None if settings.metrics_descriptor is None else open_slot(settings.metrics_descriptor)
    sampling = metrics_job(numbers, services, grpc, watch)
    leases, key_usage = Leases(storage), usage_job(keys)
    try:
        await grpc.set_serving(await is_writable.wait(stop))
        async with in_background(
            *sampling,
            key_usage.run(),
            activity.run(),
            memory_job().run(),
            windows_job(keys, leases).run(),
            indexes_job(storage, leases).run(),
            retention_job(storage, leases).run(),
            deletions_job(storage, leases).run(),
            presence_job(storage).run(),
            evaluation_job(storage, reading, leases, settings.rules_interval_s, numbers).run(),
            deliveries_job(storage, leases, guard).run(),
            stale_connections_job(settings, is_writable, stop).run(),
            report_health(is_writable, has_primary, grpc.set_serving),
            forever("change stream", services.tail.feed.run_once, TAIL_PAUSE_S),
        ):
            await serve(settings, rest, grpc, services.draining, stop)
    finally:
        await services.admission.close()
        await asyncio.gather(key_usage.run_once(), activity.save_rest())
        await asyncio.gather(close(client), close(reading_client), close(tail_client))
        if tracing is not None:
            await tracing.flush()


class Readers(NamedTuple):
    """The services that read."""

    reads: Reads
    exports: Exports
    rejections: RejectionReads
    usage: UsageReads
    rules: Rules
    alerts: AlertReads
    webhooks: Webhooks


def compose_readers(reading: Database, guard: Guard) -> Readers:
    """The services that read, on top of the database client for reads. They share their limits."""
    stored, types, limits = StoredEvents(reading), StoredCatalog(reading), ReadLimits()
    return Readers(
        reads=Reads(stored, types, limits),
        exports=Exports(stored, types, limits),
        rejections=RejectionReads(StoredRejections(reading), limits),
        usage=UsageReads(StoredUsage(reading), limits),
        rules=Rules(StoredRules(reading), StoredMeasurements(reading), limits),
        alerts=AlertReads(StoredAlerts(reading), limits),
        webhooks=Webhooks(StoredWebhooks(reading), StoredDeliveries(reading), SystemResolver(), guard, limits),
    )


def compose_services(
    storage: Database,
    events: Events,
    keys: Keys,
    catalog: Catalog,
    readers: Readers,
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
        reads=readers.reads,
        exports=readers.exports,
        rejections=readers.rejections,
        usage=readers.usage,
        rules=readers.rules,
        alerts=readers.alerts,
        alert_changes=StoredAlerts(storage),
        webhooks=readers.webhooks,
        cursors=Cursors(secret),
        tail=Tail(history, admission, ResumeTokens(secret), draining),
        check_ready=check_ready,
        tracer=tracer,
        draining=draining,
    )


def metrics_job(
    numbers: memoryview | None, services: Services, grpc: GrpcServer, watch: PrimaryWatch
) -> list[Coroutine[Any, Any, None]]:
    """Let this worker count its requests in its slot, if metrics are on, and the job that samples its levels."""
    if numbers is None:
        return []
    services.requests.add_listener(Recorder(numbers))

    def read_levels() -> Levels:
        leases, permits = services.admission.count_leases()
        return Levels(
            used=(*services.in_flight.used(), grpc.open_streams(), services.tail.count()),
            limits=(*LIMITS, MAX_OPEN_STREAMS, MAX_TAILS),
            leases=leases,
            permits=permits,
            is_writable=grpc.is_serving(),
            primary_changes=watch.changes,
        )

    return [Sampler(numbers, read_levels).run()]


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
    """The configuration of uvicorn for the REST API."""
    tls, requests = settings.tls, services.requests
    protocol = partial(HttpProtocol, requests=requests) if tls is None else protocol_over_tls(tls, requests)
    return uvicorn_config(
        create_app(services),
        protocol,
        timeout_keep_alive=IDLE_TIMEOUT_S,
        timeout_graceful_shutdown=DRAIN_TIMEOUT_S,
    )
