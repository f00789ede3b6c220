"""The port to the database's history: the events as they are stored now, and the order in which they were stored.

The database keeps a log of all changes, for a limited time. A position in it is some bytes that sort as the log does.
`storage/tail.py` implements the port.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol, TypeVar
from uuid import UUID

from server.core.deadline import Deadline
from server.core.events.model import EventFilter, StoredEvent

Shown = TypeVar("Shown")


class HistoryLost(Exception):
    """The database's log of changes no longer reaches back to a position."""


class Place(NamedTuple):
    """How far a follower has come. What it has received is exactly:

    1. of the stored events from its `since` on, those up to the id `read_to`, as they were at the position `after`;
    2. all that was stored between its start and `after` with an id up to `read_to`.

    Without `read_to`, it has read all that is stored, and both are without the limit.
    """

    after: bytes
    """A position in the log."""
    read_to: bytes | None = None
    """An id, as the store encodes it."""


class Change(Protocol):
    """One stored event, still encoded."""

    @property
    def position(self) -> bytes:
        """Where it stands in the log. Empty if it was not read from there."""

    @property
    def tenant_id(self) -> UUID:
        """Its tenant."""

    @property
    def size(self) -> int:
        """Bytes of its stored form."""

    def id_bound(self) -> bytes:
        """Its id, for `Place.read_to`."""

    def matches(self, where: EventFilter) -> bool:
        """Whether it has the names in a filter."""

    def shown(self, show: Callable[[StoredEvent], Shown]) -> Shown:
        """What `show` makes of the event. It is made once for all followers."""


class StoredPage(NamedTuple):
    """Stored events, oldest first."""

    changes: Sequence[Change]
    read_to: bytes | None
    """The id up to which all that match were read; None if that is to the end."""


class ChangePage(NamedTuple):
    """A part of the log: what was stored, in the order of storing."""

    changes: Sequence[Change]
    position: bytes
    """Where the next part starts."""
    has_reached: bool
    """Whether it contains all up to the position that was asked for."""


class ChangeStream(Protocol):
    """The log from a position on, for as long as it is read."""

    @property
    def position(self) -> bytes:
        """Up to where it has been read. It goes on if nothing of interest is stored, too."""

    async def next(self) -> Change | None:
        """The next change; None if there was none for a moment. Raises HistoryLost and Unavailable."""


class TailStore(Protocol):
    """The history of the database. All methods but the last two raise Unavailable."""

    async def now(self, deadline: Deadline) -> bytes:
        """The position before which stands everything that was acknowledged before this call."""

    async def stored(
        self, tenant_id: UUID, where: EventFilter, place: Place, count: int, deadline: Deadline
    ) -> StoredPage:
        """Stored events of a tenant that match, from an id on, as they were at the position of `place`."""

    async def changes(self, tenant_id: UUID, where: EventFilter, place: Place, until: bytes, count: int) -> ChangePage:
        """What was stored since `place`, at most up to its id. It may go on after `until`. Raises HistoryLost too."""

    def listen(self, tenants: Sequence[UUID], after: bytes | None) -> AbstractAsyncContextManager[ChangeStream]:
        """The log of what these tenants store, from a position on, or from now on. Raises HistoryLost too."""

    def start_of(self, since_ms: int) -> bytes:
        """The id before those of events received at or after this time, in milliseconds since 1970."""

    def time_of(self, place: Place) -> int:
        """The time, in milliseconds since 1970, from which to read again what was not received at `place`."""
