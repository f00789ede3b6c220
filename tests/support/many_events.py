"""Many events at once: written to MongoDB as Sluice writes them, but not through it."""

import random
from collections.abc import Sequence
from time import time_ns
from uuid import UUID

from server.core.events.ids import new_ids
from server.core.events.model import BatchInfo, Event
from storage.commands import EncodedDocuments
from storage.documents import encode
from tests.support.harness import Json, MongoClient

INSERT_EVENTS = 1_000
"""Events in one insert, at most."""

INSERT_BYTES = 10_000_000

NS_PER_MS = 1_000_000


def insert_events(mongo: MongoClient, key: Json, count: int, data_bytes: int = 10) -> None:
    """Insert events of the key's tenant whose `data` has about that size."""
    now = time_ns() // NS_PER_MS
    info = BatchInfo(UUID(key["tenant_id"]), "inserted", None, now)
    event = Event("inserted", {"text": "x" * data_bytes})
    step = max(1, min(INSERT_EVENTS, INSERT_BYTES // data_bytes))
    for start in range(0, count, step):
        size = min(step, count - start)
        encoded = encode(info, new_ids(now, size).binary, [event] * size, [None] * size)
        insert_encoded(mongo, encoded)


def insert_random_events(mongo: MongoClient, key: Json, count: int, data_bytes: int) -> None:
    """Insert events like `insert_events`, but such that their compressed size is half of their size."""
    rng = random.Random(1)
    info = BatchInfo(UUID(key["tenant_id"]), "inserted", None, time_ns() // NS_PER_MS)
    for _ in range(count // 10):
        events = [Event("inserted", {"text": rng.randbytes(data_bytes // 2).hex()}) for _ in range(10)]
        insert_encoded(mongo, encode(info, new_ids(info.received_at_ms, 10).binary, events, [None] * 10))


def insert_encoded(mongo: MongoClient, documents: Sequence[bytes]) -> None:
    """Insert events that are encoded: at most as many as fit in one command."""
    mongo.sluice.command({"insert": "events", "documents": [EncodedDocuments(b"".join(documents))], "ordered": False})
