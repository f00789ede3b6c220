"""The one use case for ingest: REST, unary calls and streams all store a batch by calling `Ingest`.

Start reading here: this is the hot path. A batch is stored as a whole or rejected as a whole, unless the client asked
for lenient handling.
"""

from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter_ns, time_ns
from typing import Generic, NamedTuple, TypeVar
from uuid import UUID

from msgspec import Struct

from server.core.access.admission import Admission
from server.core.access.key_check import KeyCheck
from server.core.access.keys import Credentials
from server.core.deadline import Deadline
from server.core.errors import (
    ClientGone,
    Code,
    EventError,
    InternalError,
    PayloadTooLarge,
    Quota,
    SluiceError,
    Unavailable,
)
from server.core.events.catalog import Catalog
from server.core.events.ids import Seed, ids_of, new_seed
from server.core.events.model import MAX_BATCH_BYTES, MAX_EVENT_BYTES, BatchInfo, DecodedBatch, PackedEvents, Receipt
from server.core.in_flight import Arrived, InFlight, Slot
from server.core.ingest.group_commit import QueuedBatch, group_commit
from server.core.ingest.idempotency import Idempotency, fingerprinting, record_id
from server.core.ingest.prepare import PreparedBatch, as_replay, invalid_batch, preparing_each
from server.core.ingest.settle import InsertedBatch, Settlement, all_stored, count_already_stored
from server.core.ingest.store import (
    EncodedBatch,
    EventStore,
    IdempotencyRecord,
    IdempotencyStore,
    NotInsertedByIndex,
    Unstorable,
)
from server.core.request import Request
from server.core.slow_work import SlowWork, Steps, on_loop, run_at_once
from server.core.times import NS_PER_MS
from server.core.tracing import Tracer

T = TypeVar("T")
Body = TypeVar("Body")
Result = TypeVar("Result")

NOTHING_ARRIVED = Arrived()

NO_BATCH = DecodedBatch("", None, [], [], [], [])


class IngestOptions(Struct, frozen=True):
    """What a client asks for beside its batch."""

    idempotency_key: str | None
    lenient: bool
    """Whether to store the good events of a batch that has bad ones too."""


class Submission(Struct):
    """A batch to store, and how."""

    batch: DecodedBatch
    options: IngestOptions
    size: int
    """Bytes of the body or message."""
    decode_slowly: Callable[[], Awaitable[DecodedBatch]]
    """Decodes the batch again, event by event."""
    fingerprint: bytes | None = None
    """That of the batch for its idempotency key, if it need not be made from the events."""
    received_at_ms: int | None = None
    """In milliseconds since 1970, if it is not the time at which the batch is stored."""

    async def pack(self) -> None:
        """Hold the batch as JSON, so that it takes little memory while it waits. Raises what decoding does."""
        if not self.is_packed():
            self.batch = NO_BATCH  # the memory of its values is needed
            self.batch = await self.decode_slowly()

    def is_packed(self) -> bool:
        """Whether the batch is held as JSON, since its values may be many."""
        return isinstance(self.batch.events, PackedEvents)


class AdmittedRequest(Struct, frozen=True):
    """What an API needs to read the batch of a request that was admitted."""

    origin: Request
    """The request that is counted: for a piece of a raw body, that of the whole body."""
    tenant_id: UUID
    key_check: KeyCheck
    slot: Slot
    deadline: Deadline
    slow_work: SlowWork

    async def slowly(self, steps: Steps[T], size: int) -> T:
        """What `steps` returns, which work on a body of `size` bytes. Meanwhile the slot is free for others.

        Raises what `SlowWork` does, and Unavailable if a limit on what is in flight is reached then.
        """
        with self.slot.released():
            return await self.slow_work(steps, size, self.tenant_id, self.deadline)


class Ingested(NamedTuple, Generic[Result]):
    """The receipt of what was stored, and the quota of the key that sent it; None if the key has no limit."""

    receipt: Result
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
        tracer: Tracer | None = None,
    ) -> None:
        self._admission = admission
        self._in_flight = in_flight
        self._encode = events.encode
        self._catalog = catalog
        self._commit = group_commit(events, tracer)
        self._idempotency = Idempotency(records, events.remove)
        self._slow_work = SlowWork(on_loop)
        self._settle = Settlement(events, self._idempotency)

    def __call__(
        self,
        origin: Request,
        credentials: Credentials,
        read: Callable[[AdmittedRequest], Awaitable[Submission]],
        arrived: Arrived = NOTHING_ARRIVED,
    ) -> Awaitable[Ingested[Receipt]]:
        """Admit a request, `read` its batch and store it. Raises what `handle` does."""
        return self.handle(origin, credentials, read, self.store, arrived)

    async def handle(
        self,
        origin: Request,
        credentials: Credentials,
        read: Callable[[AdmittedRequest], Awaitable[Body]],
        store: Callable[[AdmittedRequest, Body], Awaitable[Result]],
        arrived: Arrived = NOTHING_ARRIVED,
    ) -> Ingested[Result]:
        """Admit a request, `read` its body and `store` it.

        Raises what `Admission.admit`, `read` and `store` do. An error raised after admission carries the quota.
        """
        deadline, quota = Deadline(), None
        with self._in_flight.slot(arrived) as slot:
            try:
                started_ns = perf_counter_ns()
                try:
                    key, quota = await self._admission.admit(credentials, "events:write", deadline)
                finally:
                    origin.admit_ns = origin.end_step("admit", started_ns)
                key_check = KeyCheck(self._admission, credentials, "events:write")
                request = AdmittedRequest(origin, key.tenant_id, key_check, slot, deadline, self._slow_work)
                receipt = await store(request, await read(request))
            except Unavailable as error:
                unavailable = error.for_batch()
                unavailable.quota = quota
                raise unavailable from None
            except SluiceError as error:
                error.quota = error.quota or quota
                raise
            except ClientGone:
                raise
            except Exception as error:
                raise InternalError(quota) from error
        return Ingested(receipt, quota)

    async def store(self, request: AdmittedRequest, submission: Submission) -> Receipt:
        """Store a batch: all of it, or in lenient handling its good events. With an idempotency key, once.

        Raises InvalidBatch, PayloadTooLarge, IdempotencyConflict, Unavailable, and what `KeyCheck.renew` does. Nothing
        is stored then, unless Unavailable says so.
        """
        origin, count = request.origin, len(submission.batch.events) + len(submission.batch.errors)
        origin.add_events(count)
        storing = self._store(request, submission)
        del submission  # `_store` drops the decoded batch as soon as it can
        try:
            receipt = await storing
        except BaseException as error:
            origin.settle_failed(count, error)
            raise
        origin.completes_ms = receipt.info.received_at_ms if receipt.replayed else None
        stored = len(receipt.ids) - receipt.already_stored
        if stored:
            origin.settle("stored", stored)
        if receipt.already_stored:
            origin.settle("replayed", receipt.already_stored)
        if receipt.rejected:
            origin.settle("refused", len(receipt.rejected), Code.INVALID_BATCH)
            origin.partly_rejected = invalid_batch(receipt.rejected)
        origin.is_replayed = origin.is_replayed or receipt.replayed
        return receipt

    async def _store(self, request: AdmittedRequest, submission: Submission) -> Receipt:
        """Store a batch, as `store` says."""
        options, deadline = submission.options, request.deadline
        await request.key_check.renew(deadline)
        received_at_ms = submission.received_at_ms or time_ns() // NS_PER_MS
        prepared = await self._prepare(request, submission, new_seed(received_at_ms))
        if prepared.errors and not (options.lenient and prepared.ids):
            raise invalid_batch(prepared.errors)
        if sum(map(len, prepared.documents)) > MAX_BATCH_BYTES:
            raise PayloadTooLarge(f"The batch is over {MAX_BATCH_BYTES >> 20} MiB as BSON: send fewer events at a time")
        record = await self._record(request, submission, prepared)  # only now: a rejected batch does not use its key
        replayed, is_stored = record is not None and record.seed != prepared.seed, False
        already_stored = 0
        try:
            if record is not None and replayed:
                prepared = as_replay(prepared, record.seed)
                is_stored = await self._settle.is_stored(prepared, record, deadline)
                if not is_stored:
                    prepared = await self._prepare(request, submission, record.seed)
            del submission  # the decoded batch takes several times the memory of its documents
            await self._catalog.note(prepared.info, prepared.event_types, deadline)
            not_inserted = all_stored(prepared) if is_stored else await self._insert(request, prepared)
            if not_inserted or replayed:
                inserted = InsertedBatch(prepared, not_inserted, options.lenient, record, replayed)
                prepared = await self._settle(inserted, deadline)
                already_stored = count_already_stored(inserted, prepared)
        except Unavailable:
            if replayed:  # whatever this attempt stored: an earlier one may have stored some
                raise Unavailable("unknown") from None
            raise
        errors = sorted(prepared.errors)
        types = prepared.event_types
        return Receipt(prepared.info, prepared.ids, types, errors, options.lenient, replayed, already_stored)

    async def _record(
        self, request: AdmittedRequest, submission: Submission, prepared: PreparedBatch
    ) -> IdempotencyRecord | None:
        """The record that counts for the idempotency key of a batch; None if it has none. Raises what `store` does."""
        key = submission.options.idempotency_key
        if key is None:
            return None
        fingerprint = await fingerprint_of(request, submission, prepared.errors)
        own_id = record_id(request.tenant_id, key)
        record = IdempotencyRecord(own_id, request.tenant_id, fingerprint, prepared.seed)
        return await self._idempotency(record, request.deadline)

    async def _insert(self, request: AdmittedRequest, prepared: PreparedBatch) -> NotInsertedByIndex:
        """Insert the documents of a batch, together with those of other requests. Raises Unavailable."""
        documents, event_count = b"".join(prepared.documents), len(prepared.documents)
        prepared.documents.clear()  # so that they are in memory once while they wait
        batch = EncodedBatch(documents, len(documents), event_count)
        started_ns = perf_counter_ns()
        try:
            return await self._commit(QueuedBatch(batch, request.origin, started_ns), request.deadline)
        finally:
            request.origin.end_step("commit", started_ns, {"sluice.events": event_count})

    async def _prepare(self, request: AdmittedRequest, submission: Submission, seed: Seed) -> PreparedBatch:
        """Give a batch the time and the ids of `seed`, and encode the events that can be stored.

        A replay that finds events missing makes the same documents again from the seed in its idempotency record.
        """
        prepared = None if submission.is_packed() else self._prepare_at_once(request, submission.batch, seed)
        if prepared is None:
            await submission.pack()
            batch = submission.batch
            info = BatchInfo(request.tenant_id, batch.source, batch.source_id, seed.received_at_ms)
            preparing = preparing_each(self._encode, info, seed, ids_of(seed, len(batch.events)), batch)
            prepared = await request.slowly(preparing, submission.size)
        return prepared

    def _prepare_at_once(self, request: AdmittedRequest, batch: DecodedBatch, seed: Seed) -> PreparedBatch | None:
        """Prepare a batch all of whose events can be stored. Returns None for any other."""
        info = BatchInfo(request.tenant_id, batch.source, batch.source_id, seed.received_at_ms)
        ids = ids_of(seed, len(batch.events))
        try:
            documents = self._encode(info, ids.binary, batch.events, batch.times)
        except Unstorable:
            return None
        if max(map(len, documents), default=0) > MAX_EVENT_BYTES:
            return None
        types = [event.type for event in batch.events]
        return PreparedBatch(info, seed, documents, ids.text, types, batch.indexes, batch.errors)


async def fingerprint_of(request: AdmittedRequest, submission: Submission, errors: Sequence[EventError]) -> bytes:
    """The fingerprint of a batch with these errors. Raises what `AdmittedRequest.slowly` does."""
    if submission.fingerprint is not None:
        return submission.fingerprint
    steps = fingerprinting(submission.batch, errors, submission.options.lenient)
    return await request.slowly(steps, submission.size) if submission.is_packed() else run_at_once(steps)
