"""SIGHUP: replaces the workers one at a time, and reads the TLS files again, while clients are served.

For each worker, in turn:

1. Its successor starts beside it, with the TLS files as they are now.
2. Once the successor accepts requests, the kernel gives it all new connections (`ports.py`).
3. Handshakes that the worker has begun get a moment to end. Then the worker drains, and ends.

If the TLS files cannot be used, or a successor does not start, the workers that run go on as they are.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Never

import msgspec

from server.runtime.loops import failures_logged
from server.runtime.service_manager import ServiceManager
from server.runtime.tls import read_tls
from server.runtime.workers import Worker
from server.settings import Settings

log = logging.getLogger("sluice")


class Reload:
    """Carries out what SIGHUP requests: one reload at a time."""

    def __init__(self, service_manager: ServiceManager) -> None:
        self._service_manager = service_manager
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Reload soon. If a reload is under way, another follows it: the files may have changed since it read them."""
        self._requested.set()

    async def run(self, settings: Settings, workers: Sequence[Worker]) -> Never:
        """Wait for requests and carry them out, until this is cancelled. `settings` are those of the workers."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            self._service_manager.reloading()
            with failures_logged("reload on SIGHUP (what is in use stays in use)"):
                await replace_all(settings, workers)
            self._service_manager.ready()


async def replace_all(settings: Settings, workers: Sequence[Worker]) -> None:
    """Replace the workers one after the other. Raises ConfigurationError, StartError and OSError."""
    changed = msgspec.structs.replace(settings, tls=read_tls(settings))
    log.info("SIGHUP: replacing the workers, one at a time")
    for number, worker in enumerate(workers, 1):
        await worker.replace(changed)
        log.info("SIGHUP: replaced %d of %d workers", number, len(workers))
