"""`sluice serve`: the database, the shared ports and the worker processes, kept alive until a signal, then drained.

The supervisor handles no request itself, so no request can bring it down. It holds the ports, starts the workers,
replaces one that dies, and restarts the embedded database. On SIGTERM or SIGINT it lets every worker finish what it
accepted.
"""

import asyncio
import contextlib
import logging
import resource
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Never

import msgspec

from server.core.errors import ConfigurationError
from server.runtime.database import open_database
from server.runtime.first_steps import print_first_key
from server.runtime.loops import forever, in_background, until_done
from server.runtime.ports import reserved_port
from server.runtime.worker_process import RESTART_DELAY_S, WorkerProcess
from server.settings import Settings, address, base_url
from storage.embedded import EmbeddedMongod

log = logging.getLogger("sluice")


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, then drain. Raises ConfigurationError, StartError and Unavailable, at start only."""
    raise_file_limit()
    ready, stop = asyncio.Event(), asyncio.Event()
    running = asyncio.ensure_future(run(settings, ready, stop))

    def on_signal() -> None:
        if stop.is_set() or not ready.is_set():  # a second signal, or one that interrupts the start
            running.cancel()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def run(settings: Settings, ready: asyncio.Event, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then drain. Sets `ready` once requests are accepted."""
    check_tls(settings)
    with (
        reserved_port(settings.host, settings.port, "--port") as port,
        reserved_port(settings.host, settings.grpc_port, "--grpc-port") as grpc_port,
    ):
        settings = msgspec.structs.replace(settings, port=port, grpc_port=grpc_port)
        workers: list[WorkerProcess] = []

        def on_moved(url: str) -> None:
            for worker in workers:
                worker.use_database(url)

        async with running_database(settings, on_moved) as url:
            workers += [WorkerProcess(settings, url) for _ in range(settings.workers)]
            try:
                await asyncio.gather(*(worker.start() for worker in workers))
                await print_first_key(settings, url)
                print(f"ready rest={base_url(settings)} grpc={address(settings.host, grpc_port)}", flush=True)  # noqa: T201
                ready.set()
                async with in_background(*(worker.keep_alive() for worker in workers)):
                    await stop.wait()
                log.info("draining")
            finally:
                await asyncio.gather(*(worker.drain() for worker in workers))


def raise_file_limit() -> None:
    """Let this process and its children open as many files and connections as their hard limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_tls(settings: Settings) -> None:
    """Raises ConfigurationError if the TLS files are not a certificate, its key, and certificates of clients."""
    if settings.tls_cert is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
        if settings.tls_client_ca is not None:
            context.load_verify_locations(settings.tls_client_ca)
    except (OSError, ValueError):  # SSLError is an OSError
        raise ConfigurationError(
            "--tls-cert, --tls-key and --tls-client-ca must be PEM files, the key being the certificate's"
        ) from None


@asynccontextmanager
async def running_database(settings: Settings, on_moved: Callable[[str], None]) -> AsyncIterator[str]:
    """The URL of a database that accepts writes and has its indexes.

    An embedded one is kept alive. If another program took its port meanwhile, `on_moved` gets its new URL.
    """
    url = settings.storage.mongodb_url
    if url is not None:
        async with open_database(settings.storage, url):
            pass
        yield url
        return
    mongod = await EmbeddedMongod.start(Path(settings.storage.data_dir))
    try:
        async with open_database(settings.storage, mongod.url):
            pass
        async with in_background(keep_mongod_alive(mongod, on_moved)):
            yield mongod.url
    finally:
        await mongod.stop()


async def keep_mongod_alive(mongod: EmbeddedMongod, on_moved: Callable[[str], None]) -> Never:
    """Restart the embedded database whenever it dies, however many attempts that takes."""

    async def restart() -> None:
        url = mongod.url
        status = await mongod.wait()
        log.error("the embedded database died (status %d): restarting it", status)
        await until_done("start of the embedded database", mongod.restart, RESTART_DELAY_S)
        log.info("the embedded database is back")
        if mongod.url != url:
            on_moved(mongod.url)

    await forever("supervision of the embedded database", restart, RESTART_DELAY_S)
