"""Reads stored events, by page or by id, within the limits of `read_limits.py`.

A page is found first: the ids and sizes of its events, and where the next page starts. Then the events are fetched, as
the client takes them, FETCH_BYTES at a time: 1,000 events of 300 bytes at once, or one event of 900 kB.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple
from uuid import UUID

from server.core.deadline import Deadline
from server.core.events.catalog import CatalogStore, EventType
from server.core.events.model import EventFilter, StoredEvent
from server.core.events.store import EventReader, Match, Matches, PageSize, Position
from server.core.read_limits import FETCH_BYTES, ReadLimits, Reservation

NONE = Matches((), None)


class Page(NamedTuple):
    """A page of events, and where the next one starts; None if there is none."""

    events: AsyncIterator[StoredEvent]
    rest: Position | None


class Reads:
    """Reads the events in `store` for all requests to this worker."""

    def __init__(self, store: EventReader, catalog: CatalogStore, limits: ReadLimits) -> None:
        self._store = store
        self._catalog = catalog
        self._limits = limits

    @asynccontextmanager
    async def page(
        self, tenant_id: UUID, where: EventFilter, start: Position, size: PageSize, deadline: Deadline
    ) -> AsyncIterator[Page]:
        """A page of a tenant's events that match, newest first, from `start` on: at most as many as `size` says.

        `deadline` is for finding them and for the first fetch. Each later fetch has its own: the client decides how
        long a page takes. Raises Unavailable, and InvalidParameter for a position that is no position.
        """
        async with self._limits.reservation(tenant_id, deadline) as reservation:
            async with self._limits.slot(tenant_id, deadline):
                matches = NONE
                if await self._catalog.may_match(tenant_id, where, deadline):
                    matches = await self._store.find(tenant_id, where, start, size, deadline)
            async with aclosing(self._events(tenant_id, matches.found, reservation, deadline)) as events:
                yield Page(events, matches.rest)

    async def _events(
        self, tenant_id: UUID, matches: Sequence[Match], reservation: Reservation, deadline: Deadline
    ) -> AsyncGenerator[StoredEvent, None]:
        """The events that were found, fetched at the pace at which they are taken."""
        groups = list(in_groups(matches))
        for index, group in enumerate(groups):
            async with self._limits.slot(tenant_id, deadline, has_begun=index > 0):
                fetched = await self._store.fetch(group, deadline)
            reservation.hold(fetched.size, is_last=index == len(groups) - 1)
            for event in fetched.events:
                yield event
            deadline = Deadline()

    @asynccontextmanager
    async def event(self, tenant_id: UUID, event_id: UUID, deadline: Deadline) -> AsyncIterator[StoredEvent]:
        """One event of a tenant, which counts as held inside.

        Raises NotFound, for another tenant's too, and Unavailable.
        """
        async with self._limits.reservation(tenant_id, deadline) as reservation:
            async with self._limits.slot(tenant_id, deadline):
                fetched = await self._store.get(tenant_id, event_id, deadline)
            reservation.hold(fetched.size, is_last=True)
            yield next(fetched.events)

    @asynccontextmanager
    async def event_types(self, tenant_id: UUID, deadline: Deadline) -> AsyncIterator[AsyncIterator[EventType]]:
        """The sources and types that a tenant has sent, by source and type.

        `deadline` is for the first fetch. Each later fetch has its own. Raises Unavailable.
        """
        async with (
            self._limits.reservation(tenant_id, deadline) as reservation,
            aclosing(self._types(tenant_id, reservation, deadline)) as types,
        ):
            yield types

    async def _types(
        self, tenant_id: UUID, reservation: Reservation, deadline: Deadline
    ) -> AsyncGenerator[EventType, None]:
        """A tenant's types, fetched at the pace at which they are taken."""
        last, is_last = None, False
        while not is_last:
            async with self._limits.slot(tenant_id, deadline, has_begun=last is not None):
                types, size, is_last = await self._catalog.types(tenant_id, last, deadline)
            reservation.hold(size, is_last=is_last)
            for last in types:
                yield last
            deadline = Deadline()


def in_groups(matches: Sequence[Match]) -> Iterator[Sequence[Match]]:
    """The matches in groups of at most FETCH_BYTES, and of one match at least."""
    start = size = 0
    for end, match in enumerate(matches):
        size += match.size
        if size > FETCH_BYTES and end > start:
            yield matches[start:end]
            start, size = end, match.size
    if matches:
        yield matches[start:]
