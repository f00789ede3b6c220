"""Starts the metrics of a server, if they are on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from server.runtime.metrics.slots import Slots
from server.settings import Settings

PATH = "/metrics"


@asynccontextmanager
async def running_metrics(host: str, settings: Settings) -> AsyncIterator[tuple[Settings, Slots | None]]:
    """Serve the metrics at `host`. Yields the settings with the port, and the slots of workers; None if it is off.

    Raises ConfigurationError if the port cannot be used.
    """
    if settings.metrics_port is None:
        yield settings, None
        return
    # Only here: with the libraries that they need, every command of `sluice` would start 0.2 s later.
    from server.runtime.metrics.endpoint import metrics_endpoint
    from server.runtime.metrics.exposition import Exposition

    slots = Slots()
    registry = Exposition(slots, settings).registry()
    async with metrics_endpoint(host, settings.metrics_port, PATH, registry) as port:
        yield msgspec.structs.replace(settings, metrics_port=port), slots
