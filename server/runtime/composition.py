"""One worker, composed: the database, the core and the faces on top of it, built, started and drained.

The only file that knows all of them.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import uvicorn

from server.core.access.admission import Admission
from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.in_flight import InFlight
from server.core.ingest.ingest import Ingest
from server.rest.app import create_app
from server.rest.http.protocol import HttpProtocol
from server.rpc.server import GrpcServer
from server.runtime.logs import log_lost_exceptions
from server.runtime.ports import bound_socket
from server.services import Services
from server.settings import Settings
from storage.client import Client, PrimaryWatch, close, connect, database, ping
from storage.events import Events
from storage.idempotency import IdempotencyRecords
from storage.keys import Keys

SLOW_THREADS = 2
"""Bad batches are read on these, at 5 ms of the interpreter in turn with the event loop: more would only hold it up."""

KEEP_ALIVE_S = 65
"""An idle connection is kept this long: longer than the 60 s of common load balancers, which must be first to close."""

DRAIN_TIMEOUT_S = 45
"""Requests accepted before a drain get this long: a stalled body is given up after 30 s, a database call after 10."""

READY_TIMEOUT_S = 2
"""A database that does not answer within this is not ready."""

TIDY_EVERY_S = 30
"""How far `last_used_at` of a key may lag; the contract allows a minute."""

TIDY_TIMEOUT_S = 2
"""Not worth more: it would hold up a drain."""

log = logging.getLogger("sluice")


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handling, which is ours, and with word of when it accepts."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept, and say so."""
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
    events, keys = Events(storage), Keys(storage)

    async def check_ready() -> None:
        if stop.is_set():
            raise Unavailable("not_stored", "This server is draining: send to another, or retry")
        await ping(client, READY_TIMEOUT_S)

    admission, in_flight = Admission(keys), InFlight()
    services = Services(
        ingest=Ingest(admission, in_flight, events, IdempotencyRecords(storage)),
        admission=admission,
        in_flight=in_flight,
        events=events,
        check_ready=check_ready,
    )
    rest, grpc = HttpServer(http_config(settings, services), on_ready), GrpcServer(services)
    background = [
        asyncio.create_task(tidy_regularly(keys)),
        asyncio.create_task(tell_health(client, has_primary, grpc)),
    ]
    try:
        await grpc.start(settings)
        listening = bound_socket(settings.host, settings.port, socket.SO_REUSEPORT)
        serving = asyncio.create_task(rest.serve(sockets=[listening]))
        await asyncio.wait([serving, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
        rest.should_exit = True
        await asyncio.gather(serving, grpc.drain(DRAIN_TIMEOUT_S))
    finally:
        for task in background:
            task.cancel()
        await admission.close()
        await tidy(keys)
        await close(client)


def http_config(settings: Settings, services: Services) -> uvicorn.Config:
    """uvicorn's configuration."""
    return uvicorn.Config(
        create_app(services),
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


async def tell_health(client: Client, has_primary: asyncio.Queue[bool], grpc: GrpcServer) -> None:
    """Tell gRPC's health service whether the database takes writes, as the driver finds out."""
    with contextlib.suppress(Unavailable):  # a client looks for the database when it is first used
        await ping(client, READY_TIMEOUT_S)
    while True:
        await grpc.set_serving(await has_primary.get())


async def tidy_regularly(keys: Keys) -> None:
    """Tidy, again and again."""
    while True:
        await asyncio.sleep(TIDY_EVERY_S)
        await tidy(keys)


async def tidy(keys: Keys) -> None:
    """Write down which keys were used and drop windows of idle ones, unless the database is away: next time will do."""
    try:
        await keys.save_usage(Deadline(TIDY_TIMEOUT_S))
        await keys.drop_idle_windows(Deadline(TIDY_TIMEOUT_S))
    except Unavailable:
        log.warning("the database is away: last_used_at of keys will lag")
