"""The port to where stored events are read. `storage/reads.py` implements it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from server.core.deadline import Deadline
from server.core.events.model import EventFilter, StoredEvent


class Position(NamedTuple):
    """Where in a list of events a page starts: below an id, which the store encodes, and then after `skip` more."""

    skip: int
    below: bytes | None = None


class PageSize(NamedTuple):
    """How much a page holds at most: a number of events, and of bytes of their stored form, or one event."""

    events: int
    bytes: int | None = None


class Match(NamedTuple):
    """An event that was found."""

    id: Any
    """As the store has it."""
    size: int
    """Bytes of its stored form."""


class Matches(NamedTuple):
    """The events of a page."""

    found: Sequence[Match]
    rest: Position | None
    """Where the next page starts; None if there is none."""


class Fetched(NamedTuple):
    """Events that were fetched. Iterating decodes one event at a time."""

    events: Iterator[StoredEvent]
    length: int
    """The number of events."""
    size: int
    """Bytes that are held until the events were decoded."""


class Course(NamedTuple):
    """The order in which events are scanned, and where that begins."""

    oldest_first: bool = False
    after: UUID | None = None
    """The event behind which it begins, which may be gone; None to begin with the first."""


class Scanned(NamedTuple):
    """The events of one fetch of a scan."""

    parts: Iterator[bytes]
    """Their lines of JSON, some at a time. Each part is encoded when it is taken, which takes about a millisecond."""
    size: int
    """Bytes that are held until the parts were taken."""
    is_last: bool


class Scan(Protocol):
    """A walk through a tenant's events."""

    async def fetch(self, deadline: Deadline) -> Scanned:
        """The next events that match. There may be none now, and more later. Raises Unavailable."""


class EventScanner(Protocol):
    """Where stored events are scanned."""

    def scan(self, tenant_id: UUID, where: EventFilter, course: Course) -> Scan:
        """A walk through the events of a tenant that match.

        It fetches each event once that was stored when the first fetch began.
        """


class EventReader(Protocol):
    """Where stored events are read. All methods raise Unavailable."""

    async def find(
        self, tenant_id: UUID, where: EventFilter, start: Position, size: PageSize, deadline: Deadline
    ) -> Matches:
        """The next events of a tenant that match, newest first: at most as many as `size` says.

        It takes less than a second. So there may be fewer, or none, and a rest. Raises InvalidParameter for a
        position that is none of its own.
        """

    async def fetch(self, matches: Sequence[Match], deadline: Deadline) -> Fetched:
        """The events that were found, newest first, but those that were removed meanwhile. They fit into 16 MiB."""

    async def get(self, tenant_id: UUID, event_id: UUID, deadline: Deadline) -> Fetched:
        """One event of a tenant. Raises NotFound, for another tenant's too."""
