"""`sluice serve`: the database, the shared ports and the worker processes, kept alive until a signal, then drained.

The supervisor handles no request itself, so no request can bring it down. It holds the ports, starts the workers,
replaces one that leaves, and restarts the embedded database. On SIGTERM or SIGINT it lets every worker finish what it
accepted. A second signal ends all processes at once.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Never

import msgspec

from server.runtime.data_directory import check_owner
from server.runtime.database import open_database
from server.runtime.first_steps import print_first_key
from server.runtime.logs import log_lost_exceptions, system_reason
from server.runtime.loops import forever, in_background, until_done
from server.runtime.migration import prepare_embedded
from server.runtime.orphans import wait_for_orphans
from server.runtime.output import OutputError, discard_stdout, print_line
from server.runtime.ports import reserved_port, resolve_host
from server.runtime.tls import check_tls
from server.runtime.workers import RESTART_DELAY_S, Worker
from server.settings import Settings, address, base_url
from storage.cursor_secret import cursor_secret
from storage.embedded import EmbeddedMongod
from storage.embedded.limits import raise_file_limit

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

SETTLE_S = 1.0
"""How long a restart of the embedded database waits for a signal, in seconds, if the database was stopped by one.
Service managers signal all processes at once. A database that is started in a drain would only be stopped again."""

KILL_DATABASE_AFTER_S = 3
"""How long the embedded database may take to stop after a second signal. Usually it takes less than 1 s. If it is
killed, the next start replays its journal."""

log = logging.getLogger("sluice")


async def serve(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT, then drain. Returns the exit status: 1 if a second signal cut the drain short.

    Raises ConfigurationError, StartError and Unavailable, at start only.
    """
    return await Supervisor(settings).run()


class Supervisor:
    """The processes of a server, and what signals make of them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._forced = False
        self._workers: list[Worker] = []

    async def run(self) -> int:
        """Serve until a signal. Returns the exit status."""
        raise_file_limit()
        serving = asyncio.ensure_future(self._serve())
        loop = asyncio.get_running_loop()
        log_lost_exceptions(loop)
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._on_stop_signal, serving)
        loop.add_signal_handler(signal.SIGHUP, log.info, "SIGHUP is ignored: restart the server to change its settings")
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        return int(self._forced)

    def _on_stop_signal(self, serving: asyncio.Future[None]) -> None:
        if self._stop.is_set():
            self._end_at_once()
        elif not self._ready.is_set():  # it interrupts the start
            serving.cancel()
        self._stop.set()

    def _end_at_once(self) -> None:
        """End all processes without waiting for what the workers accepted."""
        log.warning("ending at once after a second signal: accepted requests may get no response")
        self._forced = True
        for worker in self._workers:
            worker.kill()
        asyncio.get_running_loop().call_later(KILL_DATABASE_AFTER_S, kill_children)

    async def _serve(self) -> None:
        """Serve until `_stop` is set, then drain. Sets `_ready` once requests are accepted."""
        settings = self._settings
        check_tls(settings)
        host = resolve_host(settings.host)
        await wait_for_orphans(host, (settings.port, settings.grpc_port))
        async with AsyncExitStack() as held:
            port = held.enter_context(reserved_port(host, settings.port, "--port"))
            grpc_port = held.enter_context(reserved_port(host, settings.grpc_port, "--grpc-port"))
            settings = msgspec.structs.replace(settings, port=port, grpc_port=grpc_port)
            url, secret = await held.enter_async_context(self._running_database())
            listening = msgspec.structs.replace(settings, host=host, cursor_secret=secret)
            self._workers += [Worker(listening, url) for _ in range(settings.workers)]
            try:
                await asyncio.gather(*(worker.start() for worker in self._workers))
                await self._announce(settings, url)
                async with in_background(*(worker.keep_alive() for worker in self._workers)):
                    await self._stop.wait()
                log.info("draining")
            finally:
                await asyncio.gather(*(worker.drain() for worker in self._workers))

    async def _announce(self, settings: Settings, url: str) -> None:
        """Print the first key, if it was made now, and the `ready` line. If stdout cannot be written to, log that."""
        try:
            await print_first_key(settings, url)
            print_line(f"ready rest={base_url(settings)} grpc={address(settings.host, settings.grpc_port)}")
        except OSError as error:  # of the first key
            discard_stdout()
            log.warning("the first key was made and could not be printed%s: create another", system_reason(error))
        except OutputError as error:
            log.warning("ready, but %s", error)
        self._ready.set()

    @asynccontextmanager
    async def _running_database(self) -> AsyncIterator[tuple[str, bytes]]:
        """The URL of a database that accepts writes and has its indexes, and its secret for cursors.

        An embedded one is kept alive.
        """
        storage = self._settings.storage
        if storage.mongodb_url is not None:
            async with open_database(storage, storage.mongodb_url) as found:
                secret = await cursor_secret(found)
            yield storage.mongodb_url, secret
            return
        data_dir = Path(storage.data_dir)
        check_owner(data_dir)
        mongod = await EmbeddedMongod.start(data_dir)
        try:
            async with open_database(storage, mongod.url, prepare_embedded) as found:
                secret = await cursor_secret(found)
            async with in_background(self._keep_alive(mongod)):
                yield mongod.url, secret
        finally:
            await mongod.stop()

    async def _keep_alive(self, mongod: EmbeddedMongod) -> Never:
        """Restart the embedded database whenever it dies, however many attempts that takes, but not in a drain."""

        async def restart() -> None:
            url = mongod.url
            status = await mongod.wait()
            if status == 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), SETTLE_S)
            if self._stop.is_set():
                log.warning("the embedded database ended before the drain did: requests get 503")
                await asyncio.Event().wait()
            log.error("the embedded database died (status %d): restarting it", status)
            await until_done("start of the embedded database", mongod.restart, RESTART_DELAY_S)
            log.info("the embedded database is back")
            if mongod.url != url:  # another program took its port meanwhile
                for worker in self._workers:
                    worker.use_database(mongod.url)

        await forever("supervision of the embedded database", restart, RESTART_DELAY_S)


def kill_children() -> None:
    """Kill all processes that this one started and that still run: the embedded database, even while it starts."""
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread or process that has just ended
            for pid in (thread / "children").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
