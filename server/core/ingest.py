"""The hot path: from a decoded batch to stored events and a receipt. Imports the rest of the core.

A batch is stored as a whole or refused as a whole, except where the caller asked for lenient handling.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from server.core.commit import ALREADY_STORED, DocumentStore, Encoded, GroupCommit
from server.core.deadline import Deadline
from server.core.decode import find_problem
from server.core.errors import InvalidBatch, PayloadTooLarge, Problem, Unavailable
from server.core.events import MAX_BATCH_BYTES, MAX_EVENT_BYTES, MAX_PROBLEMS, Candidate, Event, Header, Receipt
from server.core.idempotency import Claim, Claims, ClaimStore, claim_id, fingerprint
from server.core.ids import BatchIds, Seed, ids_of, new_seed
from server.core.times import now_ms


class Unstorable(Exception):
    """The store cannot hold one of these events; its values say why."""


class DocumentsRefused(Exception):
    """The database refused documents that it should take; the values are its error codes. A fault to be found."""


class EventStore(DocumentStore, Protocol):
    """Where events are kept."""

    def encode(
        self, header: Header, ids: Sequence[bytes], events: Sequence[Event], times: Sequence[int | None]
    ) -> list[bytes]:
        """The form in which events of a batch are kept, with their ids and times. Raises Unstorable."""


class Prepared(NamedTuple):
    """A batch as it goes to the store."""

    header: Header
    seed: Seed
    documents: list[bytes]
    ids: list[str]
    event_types: list[str]
    problems: list[Problem]


class Ingest:
    """Stores batches in `store`, and in `claims` which idempotency keys they came with."""

    def __init__(self, store: EventStore, claims: ClaimStore) -> None:
        self._encode = store.encode
        self._commit = GroupCommit(store)
        self._claim = Claims(claims)

    async def __call__(
        self, tenant_id: UUID, batch: Candidate, lenient: bool, idempotency_key: str | None, deadline: Deadline
    ) -> Receipt:
        """Store `batch` for a tenant; in `lenient` handling, what is good of it. With an idempotency key, once.

        Raises InvalidBatch, PayloadTooLarge, IdempotencyConflict or Unavailable, and then nothing is stored but where
        the last says so.
        """
        prepared, replayed = self._prepare(tenant_id, batch, new_seed(now_ms())), False
        if prepared.problems and not (lenient and prepared.ids):
            raise refusal(prepared.problems)
        if sum(map(len, prepared.documents)) > MAX_BATCH_BYTES:
            raise PayloadTooLarge(f"The batch is over {MAX_BATCH_BYTES >> 20} MiB as BSON: send fewer events at a time")
        if idempotency_key is not None:  # only now: a batch that is refused must not claim its key
            mark = fingerprint(batch, prepared.problems, lenient)
            claim = Claim(claim_id(tenant_id, idempotency_key), tenant_id, mark, prepared.seed)
            held = await self._claim(claim, deadline)
            if held.seed != prepared.seed:
                prepared, replayed = self._prepare(tenant_id, batch, held.seed), True
        encoded = Encoded(b"".join(prepared.documents), len(prepared.documents))
        prepared.documents.clear()  # they are kept once while they wait
        del batch  # it takes several times the room of the documents, and is done with
        try:
            refused = await self._commit(encoded, deadline)
        except Unavailable:
            if replayed:  # whatever became of this attempt: an earlier one may have stored some
                raise Unavailable("unknown") from None
            raise
        if idempotency_key is not None:  # others with these ids are this very batch, sent before or at the same time
            refused = {index: code for index, code in refused.items() if code != ALREADY_STORED}
        if refused:
            raise DocumentsRefused(*set(refused.values()))
        return Receipt(prepared.header, prepared.ids, prepared.event_types, sorted(prepared.problems), replayed)

    def _prepare(self, tenant_id: UUID, batch: Candidate, seed: Seed) -> Prepared:
        """Give a batch the time and the ids of `seed`, and encode what can be stored of it."""
        header = Header(tenant_id, batch.source, batch.source_id, seed.received_at_ms)
        ids = ids_of(seed, len(batch.events))
        try:
            documents = self._encode(header, ids.binary, batch.events, batch.times)
        except Unstorable:
            return self._prepare_slowly(header, seed, ids, batch)
        if max(map(len, documents), default=0) > MAX_EVENT_BYTES:
            return self._prepare_slowly(header, seed, ids, batch)
        return Prepared(header, seed, documents, ids.text, [event.type for event in batch.events], batch.problems)

    def _prepare_slowly(self, header: Header, seed: Seed, ids: BatchIds, batch: Candidate) -> Prepared:
        """Encode what can be stored of a batch, event by event, and find out what is wrong with the others."""
        prepared = Prepared(header, seed, [], [], [], list(batch.problems))
        rows = zip(batch.indexes, batch.events, batch.times, ids.binary, ids.text, strict=True)
        for index, event, time, binary_id, text_id in rows:
            document = self._try_encode(header, binary_id, event, time, index)
            if isinstance(document, Problem):
                prepared.problems.append(document)
            else:
                prepared.documents.append(document)
                prepared.ids.append(text_id)
                prepared.event_types.append(event.type)
        return prepared

    def _try_encode(
        self, header: Header, event_id: bytes, event: Event, time: int | None, index: int
    ) -> bytes | Problem:
        """The event as the store keeps it, or what is wrong with it."""
        try:
            document = self._encode(header, [event_id], [event], [time])[0]
        except Unstorable:
            return find_problem(event, index) or Problem(index, f"events[{index}]", "Cannot be stored")
        if len(document) > MAX_EVENT_BYTES:
            return Problem(index, f"events[{index}]", f"{len(document)} bytes as BSON; at most {MAX_EVENT_BYTES}")
        return document


def refusal(problems: list[Problem]) -> InvalidBatch:
    """The error for a batch with bad events."""
    problems = sorted(problems)
    first = problems[0]
    others = f" (and {len(problems) - 1} more bad events)" if len(problems) > 1 else ""
    return InvalidBatch(f"{first.path}: {first.message}{others}", problems[:MAX_PROBLEMS])
