"""Brings a small embedded database of an older layout to this version's, when its server starts."""

import logging

from storage.commands import Database
from storage.migration import migrate, plan
from storage.start import errors_at_start, prepare_at_start

MAX_EVENTS_AT_START = 1_000_000
"""With more events, a start does not migrate by itself: it would take longer than a minute."""

PROGRESS_STEPS = 10
"""How often a migration at the start tells how far it is."""

log = logging.getLogger("sluice")


async def prepare_embedded(database: Database) -> None:
    """Prepare the embedded database of a server that starts. No other server can use it meanwhile."""
    with errors_at_start():
        found = await plan(database)
    if found.is_needed and found.events <= MAX_EVENTS_AT_START:
        log.info("bringing %d events to the layout of this version", found.events)
        progress = Progress(found.events)
        with errors_at_start():
            await migrate(database, progress.add)
        log.info("the events have the layout of this version")
    await prepare_at_start(database)


class Progress:
    """Logs how far a migration of `total` events is."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def add(self, events: int) -> None:
        """Count events that were copied."""
        before, self._done = self._done, self._done + events
        if before * PROGRESS_STEPS // max(1, self._total) != self._done * PROGRESS_STEPS // max(1, self._total):
            log.info("%d of %d events are copied", self._done, self._total)
