"""`sluice serve`: the database, the shared port and the worker processes, kept alive until a signal, then drained.

The supervisor answers no request itself. It holds the port, starts the workers, replaces one that dies, restarts the
embedded database, and on SIGTERM or SIGINT lets every worker finish what it accepted. Imports all but the core's work.
"""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from server.core.errors import ConfigurationError
from server.runtime.database import open_database
from server.runtime.ports import reserved_port
from server.settings import Settings, address
from storage.client import close, connect, database
from storage.embedded import EmbeddedMongod
from storage.keys import Keys

FIRST_TENANT = "default"

KILL_AFTER_S = 60
"""A worker that has not drained by then hangs: its own limit is 45 s."""

RESTART_DELAY_S = 1.0
"""The wait before what died at once is started again."""

QUIET_GRPC = {"GRPC_VERBOSITY": "NONE"}
"""Else gRPC writes a line of its own for whatever is no HTTP/2, from anyone. The operator may set it."""

PROJECT = str(Path(__file__).parents[2])

log = logging.getLogger("sluice")


class StartError(Exception):
    """The server could not start. The text is one line for the operator."""


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, then drain. Raises ConfigurationError, StartError and Unavailable, at start only."""
    raise_file_limit()
    ready, stop = asyncio.Event(), asyncio.Event()
    running = asyncio.ensure_future(run(settings, ready, stop))

    def on_signal() -> None:
        if stop.is_set() or not ready.is_set():  # a second signal, or a start that nobody wants any more
            running.cancel()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def run(settings: Settings, ready: asyncio.Event, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then drain. Sets `ready` once callers can be served."""
    check_tls(settings)
    with (
        reserved_port(settings.host, settings.port, "--port") as port,
        reserved_port(settings.host, settings.grpc_port, "--grpc-port") as grpc_port,
    ):
        settings = msgspec.structs.replace(settings, port=port, grpc_port=grpc_port)
        workers: list[Worker] = []

        def on_moved(url: str) -> None:
            for worker in workers:
                worker.use_database(url)

        async with running_database(settings, on_moved) as url:
            workers += [Worker(settings, url) for _ in range(settings.workers)]
            try:
                await asyncio.gather(*(worker.start() for worker in workers))
                await print_first_key(settings, url)
                print(f"ready rest={base_url(settings)} grpc={address(settings.host, grpc_port)}", flush=True)  # noqa: T201
                ready.set()
                async with background(*(worker.keep_alive() for worker in workers)):
                    await stop.wait()
                log.info("draining")
            finally:
                await asyncio.gather(*(worker.drain() for worker in workers))


def raise_file_limit() -> None:
    """Let this process and its children, the database too, open as many files and connections as they ever may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_tls(settings: Settings) -> None:
    """Raises ConfigurationError where the TLS files are not a certificate, its key, and certificates of clients."""
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
    """The URL of a database that is up and has its indexes.

    An embedded one is kept alive, and `on_moved` told its new URL should it have lost its port meanwhile.
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
        async with background(keep_mongod_alive(mongod, on_moved)):
            yield mongod.url
    finally:
        await mongod.stop()


async def print_first_key(settings: Settings, url: str) -> None:
    """Make a key where the database has none, and print it with what to do with it."""
    client = connect(url, settings.storage.driver)
    try:
        first = await Keys(database(client, settings.storage.database)).create_first(FIRST_TENANT)
    finally:
        await close(client)
    if first is not None:
        print(first_steps(settings, first[1]), flush=True)  # noqa: T201


def first_steps(settings: Settings, secret: str) -> str:
    """What a newcomer needs: the first key, and a command to paste."""
    batch = '{"source": "backend", "events": [{"type": "signup", "data": {"user_id": "usr_abc123", "plan": "pro"}}]}'
    url = f"{base_url(settings)}/api/v1/events"
    return (
        f"\nThe first key, of tenant {FIRST_TENANT}; it is shown only now:\n\n    {secret}\n\n"
        f"Send an event, then list what is stored:\n\n"
        f"    curl {url} -H 'X-API-Key: {secret}' -H 'Content-Type: application/json' -d '{batch}'\n"
        f"    curl {url} -H 'X-API-Key: {secret}'\n"
    )


def base_url(settings: Settings) -> str:
    """Where the REST endpoint is."""
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://{address(settings.host, settings.port)}"


async def keep_mongod_alive(mongod: EmbeddedMongod, on_moved: Callable[[str], None]) -> None:
    """Start the embedded database again whenever it dies."""
    while True:
        url = mongod.url
        status = await mongod.wait()
        log.error("the embedded database died (status %d): restarting it", status)
        while True:
            try:
                await mongod.restart()
                break
            except ConfigurationError as error:
                log.error("the embedded database does not start: %s", error)  # noqa: TRY400
                await asyncio.sleep(RESTART_DELAY_S)
        log.info("the embedded database is back")
        if mongod.url != url:
            on_moved(mongod.url)


class Worker:
    """One worker process, and its successors."""

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._url = url
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start a process and wait until it accepts requests. Raises StartError where it does not get there."""
        path = os.pathsep.join(filter(None, (PROJECT, os.environ.get("PYTHONPATH"))))
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # a folder named `server` where the user happens to be is not ours
            "-m",
            "server.runtime.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**QUIET_GRPC, **os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C reaches the supervisor only, which drains the workers
        )
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        storage = msgspec.structs.replace(self._settings.storage, mongodb_url=self._url)
        self._process.stdin.write(msgspec.json.encode(msgspec.structs.replace(self._settings, storage=storage)) + b"\n")
        if not await self._process.stdout.readline():
            status = await self._process.wait()
            raise StartError(f"a worker ended before it was ready (status {status}): the lines above say why")

    async def keep_alive(self) -> None:
        """Replace the process whenever it dies."""
        while True:
            assert self._process is not None  # noqa: S101
            status = await self._process.wait()
            log.warning("worker %d ended (status %d): replacing it", self._process.pid, status)
            try:
                await self.start()
            except StartError:
                await asyncio.sleep(RESTART_DELAY_S)

    def use_database(self, url: str) -> None:
        """Drain the process, so that it is replaced by one that uses the database at `url`."""
        self._url = url
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()

    async def drain(self) -> None:
        """Let the process finish what it accepted, and end it."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(KILL_AFTER_S):
                await process.wait()
        except TimeoutError:
            log.error("worker %d did not drain in %d s: killing it", process.pid, KILL_AFTER_S)  # noqa: TRY400
            process.kill()
            await process.wait()


@asynccontextmanager
async def background(*coroutines: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run the coroutines, which never end by themselves, while the block runs."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)
