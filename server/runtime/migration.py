"""Brings a small embedded database of an older layout to this version's, when its server starts. Says how far it is."""

import logging
from collections.abc import Callable
from time import monotonic

from storage.commands import Database
from storage.migration import Plan, migrate, plan
from storage.start import check_writable, errors_at_start, prepare_at_start

MAX_EVENTS_AT_START = 1_000_000
"""With more events, a start does not migrate by itself: it would take longer than a minute."""

PROGRESS_INTERVAL_S = 5.0
"""How often a migration says how far it is."""

log = logging.getLogger("sluice")


async def prepare_embedded(database: Database) -> None:
    """Prepare the embedded database of a server that starts. No other server can use it meanwhile."""
    with errors_at_start():
        found = await plan(database)
    if found.is_needed and found.events <= MAX_EVENTS_AT_START:
        await check_writable(database)
        with errors_at_start():
            notes = await migrate(database, Progress(found, log.info).show)
        for note in notes:
            log.warning("%s", note)
    await prepare_at_start(database)


class Progress:
    """Says how far a migration is: at the start, every PROGRESS_INTERVAL_S, and when all events are copied."""

    def __init__(self, found: Plan, say: Callable[[str], None]) -> None:
        self._total = found.events
        self._first = found.copied
        self._say = say
        self._started_at = self._said_at = monotonic()
        say(f"copying {found.events:,} events to the layout of this version, of which {found.copied:,} are copied")

    def show(self, copied: int) -> None:
        """Note that `copied` events are copied, with those of earlier runs."""
        now = monotonic()
        if copied >= self._total:
            self._say(f"{copied:,} events are copied")
        elif now - self._said_at >= PROGRESS_INTERVAL_S:
            self._said_at = now
            left_s = (self._total - copied) * (now - self._started_at) / max(1, copied - self._first)
            self._say(f"{copied:,} of {self._total:,} events are copied, about {left_s:.0f} s left")
