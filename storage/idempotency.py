"""Idempotency claims in MongoDB. Imports the driver's edge and the core.

A claim is written once and never changed or removed, for it must hold as long as the events it stands for. Its `_id` is
a hash, so the collection tells nobody a key.
"""

from collections.abc import Sequence
from functools import partial

from bson.binary import Binary

from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.events.ids import Seed
from server.core.ingest.store import DocumentsRefused, IdempotencyRecord
from server.core.times import from_milliseconds, to_milliseconds
from storage.client import Database, Document, insert_each, retry_unless_answered
from storage.indexes import CLAIMS


class IdempotencyRecords:
    """The collection `claims`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._collection = database[CLAIMS]

    async def put(self, claims: Sequence[IdempotencyRecord], deadline: Deadline) -> list[IdempotencyRecord]:
        """Keep each claim, unless there is one with its id. Returns, for each, the one that is kept.

        All of these are in the journals of a majority. Raises Unavailable where that is not certain: no events are
        stored then, as they come after the claim.
        """
        return await retry_unless_answered(partial(self._put, claims), deadline)

    async def _put(self, claims: Sequence[IdempotencyRecord]) -> list[IdempotencyRecord]:
        refused = await insert_each(self._database, CLAIMS, [document_of(claim) for claim in claims])
        if wrong := {why.code for why in refused.values() if not why.already_stored}:
            raise DocumentsRefused(*wrong)
        earlier = await self._find([claims[index].id for index in refused]) if refused else {}
        return [earlier[claim.id] if index in refused else claim for index, claim in enumerate(claims)]

    async def _find(self, ids: Sequence[bytes]) -> dict[bytes, IdempotencyRecord]:
        """Records that an insert met. It waited for a majority to have all that it saw, and so it is what is read here.

        Raises Unavailable where a primary elected since then does not know yet what a majority has.
        """
        cursor = self._collection.find({"_id": {"$in": list(ids)}}, batch_size=len(ids) + 1)
        found = {document["_id"]: claim_of(document) for document in await cursor.to_list(None)}
        if not found.keys() >= set(ids):
            raise Unavailable("unknown")
        return found


def document_of(claim: IdempotencyRecord) -> Document:
    """A claim as it is kept."""
    return {
        "_id": Binary(claim.id),
        "tenant_id": Binary.from_uuid(claim.tenant_id),
        "fingerprint": Binary(claim.fingerprint),
        "received_at": from_milliseconds(claim.seed.received_at_ms),
        "random": claim.seed.random,
    }


def claim_of(document: Document) -> IdempotencyRecord:
    """The claim that a document holds."""
    return IdempotencyRecord(
        id=document["_id"],
        tenant_id=document["tenant_id"],
        fingerprint=document["fingerprint"],
        seed=Seed(to_milliseconds(document["received_at"]), document["random"]),
    )
