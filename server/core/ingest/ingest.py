"""The one use case for ingest: REST, unary calls and streams all store a batch by calling `Ingest`.

Start reading here: this is the hot path. A batch is stored as a whole or rejected as a whole, unless the client asked
for lenient handling.
"""

from collections.abc import Awaitable, Callable
from time import time_ns
from typing import NamedTuple
from uuid import UUID

from msgspec import Struct

from server.core.access.admission import Admission
from server.core.access.keys import Credentials
from server.core.deadline import Deadline
from server.core.errors import ClientGone, InternalError, PayloadTooLarge, Quota, SluiceError, Unavailable
from server.core.events.catalog import Catalog
from server.core.events.ids import Seed, ids_of, new_seed
from server.core.events.model import MAX_BATCH_BYTES, MAX_EVENT_BYTES, BatchInfo, DecodedBatch, Receipt
from server.core.in_flight import Arrived, InFlight, Slot
from server.core.ingest.group_commit import group_commit
from server.core.ingest.idempotency import Idempotency, fingerprint, record_id
from server.core.ingest.prepare import PreparedBatch, invalid_batch, prepare_each
from server.core.ingest.settle import InsertedBatch, Settlement
from server.core.ingest.store import EncodedBatch, EventStore, IdempotencyRecord, IdempotencyStore, Unstorable
from server.core.times import NS_PER_MS

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


class AdmittedRequest(Struct, frozen=True):
    """What an API needs to read the batch of a request that was admitted."""

    tenant_id: UUID
    slot: Slot
    deadline: Deadline


class Ingested(NamedTuple):
    """The receipt of a stored batch, and the quota of the key that sent it; None if the key has no limit."""

    receipt: Receipt
    quota: Quota | None


class Ingest:
    """Stores batches of clients that `admission` admits, within the limits of `in_flight`."""

    def __init__(
        self,
        admission: Admission,
        in_flight: InFlight,
        events: EventStore,
        records: IdempotencyStore,
        catalog: Catalog,
    ) -> None:
        self._admission = admission
        self._in_flight = in_flight
        self._encode = events.encode
        self._catalog = catalog
        self._commit = group_commit(events)
        self._idempotency = Idempotency(records, events.remove)
        self._settle = Settlement(events, self._idempotency)

    async def __call__(
        self,
        credentials: Credentials,
        read: Callable[[AdmittedRequest], Awaitable[Submission]],
        arrived: Arrived = NOTHING_ARRIVED,
    ) -> Ingested:
        """Admit a request, `read` its batch and store it.

        Raises what `Admission.admit`, `read` and `_store` do. An error raised after admission carries the quota.
        """
        deadline, quota, key_id = Deadline(), None, None
        with self._in_flight.slot(arrived) as slot:
            try:
                key, quota = await self._admission.admit(credentials, "events:write", deadline)
                key_id = key.id
                receipt = await self._store(
                    key.tenant_id, await read(AdmittedRequest(key.tenant_id, slot, deadline)), deadline
                )
            except Unavailable as error:
                unavailable = error.for_batch()
                unavailable.quota, unavailable.key_id = quota, key_id or error.key_id
                raise unavailable from None
            except SluiceError as error:
                error.quota, error.key_id = error.quota or quota, error.key_id or key_id
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
        prepared, replayed = self._prepare(tenant_id, batch, new_seed(time_ns() // NS_PER_MS)), False
        if prepared.errors and not (lenient and prepared.ids):
            raise invalid_batch(prepared.errors)
        size = sum(map(len, prepared.documents))
        if size > MAX_BATCH_BYTES:
            raise PayloadTooLarge(f"The batch is over {MAX_BATCH_BYTES >> 20} MiB as BSON: send fewer events at a time")
        stored = None
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
            await self._catalog.note(prepared.info, prepared.event_types, deadline)
            not_inserted = await self._commit(encoded, deadline)
            if not_inserted or replayed:
                inserted = InsertedBatch(prepared, not_inserted, lenient, stored, replayed)
                prepared = await self._settle(inserted, deadline)
        except Unavailable:
            if replayed:  # whatever this attempt stored: an earlier one may have stored some
                raise Unavailable("unknown") from None
            raise
        return Receipt(prepared.info, prepared.ids, prepared.event_types, sorted(prepared.errors), lenient, replayed)

    def _prepare(self, tenant_id: UUID, batch: DecodedBatch, seed: Seed) -> PreparedBatch:
        """Give a batch the time and the ids of `seed`, and encode the events that can be stored.

        A replay makes the same documents again from the seed in its idempotency record.
        """
        info = BatchInfo(tenant_id, batch.source, batch.source_id, seed.received_at_ms)
        ids = ids_of(seed, len(batch.events))
        try:
            documents = self._encode(info, ids.binary, batch.events, batch.times)
        except Unstorable:
            return prepare_each(self._encode, info, seed, ids, batch)
        if max(map(len, documents), default=0) > MAX_EVENT_BYTES:
            return prepare_each(self._encode, info, seed, ids, batch)
        types = [event.type for event in batch.events]
        return PreparedBatch(info, seed, documents, ids.text, types, batch.indexes, batch.errors)
