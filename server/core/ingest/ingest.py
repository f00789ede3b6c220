"""The one use case for ingest: REST, unary calls and streams all store a batch by calling `Ingest`.

Start reading here: this is the hot path. A batch is stored as a whole or rejected as a whole, unless the client asked
for lenient handling.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple
from uuid import UUID

from msgspec import Struct

from server.core.access.admission import Admission
from server.core.access.keys import Credentials
from server.core.deadline import Deadline
from server.core.errors import (
    ClientGone,
    EventError,
    InternalError,
    InvalidBatch,
    PayloadTooLarge,
    Quota,
    SluiceError,
    Unavailable,
)
from server.core.events.decode import find_event_error
from server.core.events.ids import BatchIds, Seed, ids_of, new_seed
from server.core.events.model import (
    MAX_BATCH_BYTES,
    MAX_EVENT_BYTES,
    MAX_LISTED_ERRORS,
    BatchInfo,
    DecodedBatch,
    Event,
    Receipt,
)
from server.core.in_flight import Arrived, InFlight, Slot
from server.core.ingest.group_commit import group_commit
from server.core.ingest.idempotency import Idempotency, fingerprint, record_id
from server.core.ingest.store import (
    DocumentsRefused,
    EncodedBatch,
    EventStore,
    IdempotencyRecord,
    IdempotencyStore,
    Unstorable,
)
from server.core.times import now_ms

NOTHING_ARRIVED = Arrived()


class IngestOptions(Struct, frozen=True):
    """What a client asks for beside its batch."""

    idempotency_key: str | None
    lenient: bool
    """Whether to store the good events of a batch that has bad ones too."""


class Submission(Struct, frozen=True):
    """A batch to store, and how."""

    batch: DecodedBatch
    options: IngestOptions


class Ingested(NamedTuple):
    """The receipt of a stored batch, and the quota of the key that sent it; None if the key has no limit."""

    receipt: Receipt
    quota: Quota | None


class PreparedBatch(Struct, frozen=True):
    """A batch as it goes to the store."""

    info: BatchInfo
    seed: Seed
    documents: list[bytes]
    ids: list[str]
    event_types: list[str]
    errors: list[EventError]


class Ingest:
    """Stores batches of clients that `admission` admits, within the limits of `in_flight`."""

    def __init__(
        self, admission: Admission, in_flight: InFlight, events: EventStore, records: IdempotencyStore
    ) -> None:
        self._admission = admission
        self._in_flight = in_flight
        self._encode = events.encode
        self._commit = group_commit(events)
        self._idempotency = Idempotency(records)

    async def __call__(
        self,
        credentials: Credentials,
        read: Callable[[Slot, Deadline], Awaitable[Submission]],
        arrived: Arrived = NOTHING_ARRIVED,
    ) -> Ingested:
        """Admit a request, `read` its batch and store it.

        Raises what `Admission.admit`, `read` and `_store` do. An error raised after admission carries the quota.
        """
        deadline = Deadline()
        with self._in_flight.slot(arrived) as slot:
            key, quota = await self._admission.admit(credentials, "events:write", deadline)
            try:
                receipt = await self._store(key.tenant_id, await read(slot, deadline), deadline)
            except SluiceError as error:
                error.quota = quota
                raise
            except ClientGone:
                raise
            except Exception as error:
                raise InternalError(quota) from error
        return Ingested(receipt, quota)

    async def _store(self, tenant_id: UUID, submission: Submission, deadline: Deadline) -> Receipt:
        """Store a batch for a tenant: all of it, or in lenient handling its good events. With an idempotency key, once.

        Raises InvalidBatch, PayloadTooLarge, IdempotencyConflict or Unavailable. Nothing is stored then, unless
        Unavailable says so.
        """
        batch, idempotency_key = submission.batch, submission.options.idempotency_key
        lenient = submission.options.lenient
        prepared, replayed = self._prepare(tenant_id, batch, new_seed(now_ms())), False
        if prepared.errors and not (lenient and prepared.ids):
            raise invalid_batch(prepared.errors)
        size = sum(map(len, prepared.documents))
        if size > MAX_BATCH_BYTES:
            raise PayloadTooLarge(f"The batch is over {MAX_BATCH_BYTES >> 20} MiB as BSON: send fewer events at a time")
        if idempotency_key is not None:  # only now, so that a rejected batch does not use its key
            mark = fingerprint(batch, prepared.errors, lenient)
            record = IdempotencyRecord(record_id(tenant_id, idempotency_key), tenant_id, mark, prepared.seed)
            stored = await self._idempotency(record, deadline)
            if stored.seed != prepared.seed:
                prepared, replayed = self._prepare(tenant_id, batch, stored.seed), True
        encoded = EncodedBatch(b"".join(prepared.documents), size, len(prepared.documents))
        prepared.documents.clear()  # so that they are in memory once while they wait
        del submission, batch  # the decoded batch takes several times the memory of the documents
        try:
            not_inserted = await self._commit(encoded, deadline)
        except Unavailable:
            if replayed:  # whatever this attempt stored: an earlier one may have stored some
                raise Unavailable("unknown") from None
            raise
        # Under an idempotency key, documents with these ids are those of this very batch, sent before or concurrently.
        refused = [why for why in not_inserted.values() if idempotency_key is None or not why.already_stored]
        if refused:
            raise DocumentsRefused(*{why.code for why in refused})
        return Receipt(prepared.info, prepared.ids, prepared.event_types, sorted(prepared.errors), lenient, replayed)

    def _prepare(self, tenant_id: UUID, batch: DecodedBatch, seed: Seed) -> PreparedBatch:
        """Give a batch the time and the ids of `seed`, and encode the events that can be stored."""
        info = BatchInfo(tenant_id, batch.source, batch.source_id, seed.received_at_ms)
        ids = ids_of(seed, len(batch.events))
        try:
            documents = self._encode(info, ids.binary, batch.events, batch.times)
        except Unstorable:
            return self._prepare_each(info, seed, ids, batch)
        if max(map(len, documents), default=0) > MAX_EVENT_BYTES:
            return self._prepare_each(info, seed, ids, batch)
        return PreparedBatch(info, seed, documents, ids.text, [event.type for event in batch.events], batch.errors)

    def _prepare_each(self, info: BatchInfo, seed: Seed, ids: BatchIds, batch: DecodedBatch) -> PreparedBatch:
        """Encode a batch event by event, to find every event that cannot be stored."""
        prepared = PreparedBatch(info, seed, [], [], [], list(batch.errors))
        rows = zip(batch.indexes, batch.events, batch.times, ids.binary, ids.text, strict=True)
        for index, event, time, binary_id, text_id in rows:
            document = self._encode_one(info, binary_id, event, time, index)
            if isinstance(document, EventError):
                prepared.errors.append(document)
            else:
                prepared.documents.append(document)
                prepared.ids.append(text_id)
                prepared.event_types.append(event.type)
        return prepared

    def _encode_one(
        self, info: BatchInfo, event_id: bytes, event: Event, time: int | None, index: int
    ) -> bytes | EventError:
        """The stored form of an event, or what is wrong with it."""
        try:
            document = self._encode(info, [event_id], [event], [time])[0]
        except Unstorable:
            return find_event_error(event, index) or EventError(index, f"events[{index}]", "Cannot be stored")
        if len(document) > MAX_EVENT_BYTES:
            return EventError(index, f"events[{index}]", f"{len(document)} bytes as BSON; at most {MAX_EVENT_BYTES}")
        return document


def invalid_batch(errors: Sequence[EventError]) -> InvalidBatch:
    """The error for a batch with bad events: the first in its text, and up to 100 in its list."""
    errors = sorted(errors)
    first = errors[0]
    others = f" (and {len(errors) - 1} more bad events)" if len(errors) > 1 else ""
    return InvalidBatch(f"{first.path}: {first.message}{others}", errors[:MAX_LISTED_ERRORS])
