"""Remembers the ids of the events that were shown last, so that none is shown twice when events are read again."""

from collections import deque
from uuid import UUID

MAX_IDS = 100_000
"""How many are remembered: 12 MB, and about a second at the highest rate that one server stores."""

BITS_AFTER_TIME = 80
"""An id begins with the time of receipt, in milliseconds since 1970, in 48 of its 128 bits (RFC 9562, version 7)."""


class RecentIds:
    """The last `limit` ids."""

    def __init__(self, limit: int = MAX_IDS) -> None:
        self._limit = limit
        self._ids: set[UUID] = set()
        self._order: deque[UUID] = deque()
        self._forgotten_to_ms = 0

    def add(self, event_id: UUID) -> bool:
        """Remember an id. Returns False if it was remembered already."""
        if event_id in self._ids:
            return False
        self._ids.add(event_id)
        self._order.append(event_id)
        if len(self._order) > self._limit:
            forgotten = self._order.popleft()
            self._ids.remove(forgotten)
            self._forgotten_to_ms = max(self._forgotten_to_ms, time_of(forgotten))
        return True

    def reaches_back_to(self, since_ms: int) -> bool:
        """Whether no id of an event received at this time or later was forgotten."""
        return self._forgotten_to_ms < since_ms


def time_of(event_id: UUID) -> int:
    """When the event was received, in milliseconds since 1970."""
    return event_id.int >> BITS_AFTER_TIME
