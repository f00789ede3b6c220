"""The ports to where events and idempotency records are kept. `storage` implements both."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

from msgspec import Struct

from server.core.deadline import Deadline
from server.core.errors import EventError
from server.core.events.ids import Seed
from server.core.events.model import BatchInfo, Event


class EncodedBatch(Struct, frozen=True):
    """The documents of one request in their stored form, one after the other."""

    documents: bytes
    size: int
    """Bytes of the documents."""
    event_count: int


class NotInserted(NamedTuple):
    """Why the database did not insert a document."""

    code: int | None
    """MongoDB's error code; None if no insert was tried, because the document is stored."""
    already_stored: bool
    """Whether a document with this one's own id is stored, on a majority like all the others."""
    is_perhaps_ours: bool = False
    """Whether an earlier attempt of the same call may have stored it."""
    reason: str | None = None
    """What an index or a validator of the operator has against the document, in words for the client; None if the
    cause is not the document."""


ALREADY_STORED = NotInserted(None, already_stored=True)

NotInsertedByIndex = Mapping[int, NotInserted]
"""The documents of a batch that were not inserted, by their index in the batch."""


class Unstorable(Exception):
    """An event holds a value that the store cannot hold. The event's values say which."""


class DocumentStore(Protocol):
    """Stores encoded documents."""

    async def insert(self, group: Sequence[EncodedBatch], deadline: Deadline) -> Sequence[NotInsertedByIndex]:
        """Return when all documents but the returned ones are on disk on a majority.

        Returns, for each batch, the documents that were not inserted, by their index in the batch. Raises Unavailable
        if the outcome of any document is uncertain.
        """


class EventStore(DocumentStore, Protocol):
    """Encodes and stores events."""

    def encode(
        self, info: BatchInfo, ids: Sequence[bytes], events: Sequence[Event], times: Sequence[int | None]
    ) -> list[bytes]:
        """The stored form of each event, given its id and its time. Raises Unstorable."""

    async def find_stored(self, tenant_id: UUID, ids: Collection[bytes], deadline: Deadline) -> set[bytes]:
        """Those of the ids under which a tenant's event is on disk on a majority. Raises Unavailable."""

    async def remove(self, tenant_id: UUID, ids: Sequence[bytes], deadline: Deadline) -> None:
        """Remove a tenant's events by their ids. Return when they are gone on a majority. Raises Unavailable."""


RecordState = Literal["open", "confirmed", "refused", "refused_by_replay"]
"""What is known of a record's batch. `idempotency.py` says how the states follow each other."""


class IdempotencyRecord(Struct, frozen=True):
    """What an idempotency key of a tenant stands for. It holds neither the key nor any part of the events."""

    id: bytes
    """A hash of tenant and key."""
    tenant_id: UUID
    fingerprint: bytes
    """A hash of the batch."""
    seed: Seed
    """The ids of the events are made from it. Each request draws its own, so it tells two requests apart."""
    state: RecordState = "open"
    refused: tuple[EventError, ...] = ()
    """In a confirmed record: the events that the database refused, which the receipt says for good."""


class BodyProgress(Struct):
    """How far a raw body with an idempotency key is settled: what its receipt says for good."""

    items: int = 0
    """How many items from the first on are stored or rejected: a number of whole pieces."""
    stored: int = 0
    rejected: int = 0
    errors: list[EventError] = []
    """The first of the items that were rejected."""


class ProgressStore(Protocol):
    """Stores the progress of raw bodies. All methods return what is on disk on a majority, and raise Unavailable."""

    async def find_progress(self, record_id: bytes, deadline: Deadline) -> BodyProgress | None:
        """The progress that was saved last under an id; None if there is none."""

    async def save_progress(
        self, record_id: bytes, tenant_id: UUID, progress: BodyProgress, deadline: Deadline
    ) -> None:
        """Save progress under an id, in the place of what is there."""


class IdempotencyStore(Protocol):
    """Stores idempotency records. All methods return what is on disk on a majority, and raise Unavailable."""

    async def put(self, records: Sequence[IdempotencyRecord], deadline: Deadline) -> list[IdempotencyRecord]:
        """Store each record, unless one with its id exists. Returns, for each, the record that is stored."""

    async def replace(
        self, record: IdempotencyRecord, new: IdempotencyRecord, deadline: Deadline
    ) -> IdempotencyRecord | None:
        """Store `new`, which has the same id, if `record` is stored with just this seed and state, atomically.

        Returns the record that is stored then; None if there is none.
        """

    async def remove(self, record: IdempotencyRecord, deadline: Deadline) -> None:
        """Remove a refused record, if it is stored with just this seed."""
