"""Knows when Sluice or its database was away, so that its own absence is not taken for the silence of clients.

Each worker notes every NOTE_INTERVAL_S that the database takes its writes. A time of more than MAX_SILENCE_S without
a note is an outage, whatever was the reason. What the notes do not reach back to counts as no outage.

An evaluation cannot be trusted, and becomes an error, in two cases:
1. There was an outage since the due time before.
2. There was one for more than MAX_AWAY_SHARE of its window.

Example with an interval of 15 minutes and an outage from 12:04 to 12:25. The due times 12:15 and 12:30 are errors by
the first case, for all rules. At 12:45, a rule with a window of an hour is an error by the second case: 21 of its 60
minutes are missing. A rule with a window of 15 minutes is evaluated, and so is one with a window of a day: it lacks
1.5 %, of which clients have sent again what was not stored.
"""

from collections.abc import Sequence
from typing import Protocol

from server.core.deadline import Deadline
from server.core.rules.model import Window
from server.core.times import MS_PER_S

NOTE_INTERVAL_S = 10.0
"""How often a worker notes that it can write: a small update."""

MAX_SILENCE_S = 20.0
"""Longer than it takes to replace the only worker, and twice the time between its notes."""

MAX_SILENCE_MS = round(MAX_SILENCE_S * MS_PER_S)

MAX_AWAY_SHARE = 0.05
"""How much of a window may be missing. Without it, a minute's outage would silence a rule over a day for a day."""


class PresenceStore(Protocol):
    """Keeps when the database took writes."""

    async def note(self, deadline: Deadline) -> None:
        """Note that it takes writes now. Raises Unavailable."""

    async def periods(self, deadline: Deadline) -> Sequence[Window]:
        """The periods in which it took writes, of the last weeks, in any order. Raises Unavailable."""


def outages_between(periods: Sequence[Window], now_ms: int) -> list[Window]:
    """The times between the periods, and from the last of them to now, as far as they are longer than MAX_SILENCE_S."""
    outages: list[Window] = []
    until_ms: int | None = None
    for period in [*sorted(periods), Window(now_ms, now_ms)]:
        if until_ms is not None and period.start_ms - until_ms > MAX_SILENCE_MS:
            outages.append(Window(until_ms, period.start_ms))
        until_ms = max(until_ms or 0, period.end_ms)
    return outages


def was_away(outages: Sequence[Window], interval: Window, window: Window) -> bool:
    """Whether an evaluation cannot be trusted. `interval` is the time since the due time before."""
    if away_ms(outages, interval) > 0:
        return True
    return away_ms(outages, window) > MAX_AWAY_SHARE * (window.end_ms - window.start_ms)


def away_ms(outages: Sequence[Window], window: Window) -> int:
    """How much of a window falls into outages."""
    return sum(max(0, min(each.end_ms, window.end_ms) - max(each.start_ms, window.start_ms)) for each in outages)
