"""Idempotency: a batch that is sent again under its key is stored once, with the same receipt.

Theory of operation. Before any event of a batch is stored, a record is stored: the fingerprint of the batch and the
seed of its ids, under a hash of tenant and key. The record is on disk on a majority, and never changes. Every repeat
finds it, whichever worker, protocol or host takes it. From the seed it makes the same ids. So inserting the events
again stores exactly those that are missing: MongoDB refuses a second document with the same `_id`.

Example with two workers and a crash:
1. Worker 1 gets batch B (3 events) under key K. It draws seed S1 and stores the record (K, fingerprint of B, S1).
2. Worker 1 inserts events 0 and 1, and is killed. The client gets no response.
3. The client sends B again under K. Worker 2 draws seed S2, tries to store its record, and gets back the one with S1.
   The fingerprints are equal, so it is the same batch. The seeds differ, so it is a replay.
4. Worker 2 makes the ids again from S1 and inserts all 3 events. 0 and 1 are stored already; 2 is inserted now.
5. The receipt has the ids and the time of S1, and says that it is a replay.
If B were another batch, its fingerprint would differ in step 3: 422, and nothing is stored.

Records are kept for good. One that expired would let a late retry store its batch twice.
"""

import re
from collections.abc import Sequence
from hashlib import sha256
from uuid import UUID

import msgspec

from server.core.coalesce import Coalescer
from server.core.deadline import Deadline
from server.core.errors import EventError, IdempotencyConflict, InvalidHeader
from server.core.events.model import DecodedBatch
from server.core.ingest.store import IdempotencyRecord, IdempotencyStore

MAX_IDEMPOTENCY_KEY_CHARS = 255
"""Room for any id that clients use, such as a path and an offset. Only a hash is stored, so length costs nothing."""

VISIBLE = re.compile(rf"[\x21-\x7e]{{1,{MAX_IDEMPOTENCY_KEY_CHARS}}}")

GROUPS_AT_ONCE = 2
"""Groups of records in flight: one is written to the journal while the database reads the next."""

encode_canonically = msgspec.json.Encoder(order="deterministic").encode
"""Equal values give equal bytes: keys are sorted, and 1 and 1.0 differ."""


class Idempotency:
    """Finds or makes the records in `store`. Records of requests that wait at the same time are stored together."""

    def __init__(self, store: IdempotencyStore) -> None:
        self._put = Coalescer(store.put, at_once=GROUPS_AT_ONCE)

    async def __call__(self, record: IdempotencyRecord, deadline: Deadline) -> IdempotencyRecord:
        """The record that counts for the key: `record` itself if it is the first.

        Raises IdempotencyConflict if the key stands for another batch, and Unavailable.
        """
        stored = await self._put(record, deadline)
        if stored.fingerprint != record.fingerprint:
            raise IdempotencyConflict
        return stored


def parse_idempotency_key(keys: Sequence[str]) -> str:
    """The only key in `keys`. Raises InvalidHeader for several, or if it is not 1 to 255 visible characters."""
    if len(keys) > 1 or not VISIBLE.fullmatch(keys[0]):
        raise InvalidHeader(f"Idempotency-Key: one of 1 to {MAX_IDEMPOTENCY_KEY_CHARS} visible ASCII characters")
    return keys[0]


def record_id(tenant_id: UUID, key: str) -> bytes:
    """The id of the record of a tenant's key. Tenants never share a record; protocols do."""
    return sha256(tenant_id.bytes + key.encode()).digest()


def fingerprint(batch: DecodedBatch, errors: Sequence[EventError], lenient: bool) -> bytes:
    """A hash that is equal for equal batches with equal handling, over either protocol.

    Good events count by their values, and their timestamps by the moment they name. Bad events count by the path of
    what is wrong, since each protocol holds them in another form. The input to the hash must never change: records
    outlive the release that made them.
    """
    bad = {error.index for error in errors}
    wrong = [(error.index, error.path) for error in sorted(errors)]
    digest = sha256(encode_canonically([batch.source, batch.source_id, lenient, wrong]))
    for index, event, time in zip(batch.indexes, batch.events, batch.times, strict=True):
        if index not in bad:
            digest.update(encode_canonically(msgspec.structs.replace(event, timestamp=time)))
    return digest.digest()
