"""Drives MongoDB without a server, with the documents that the server would store for the same events.

`insert_many` with 1,000 documents a call is the ceiling of any server. `insert_one` is what clients reach without a
server. Both wait for a majority and its journal, as the server does. The documents are BSON made in advance.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, WriteConcern
from pymongo.collection import Collection

from loadtests.benchmark.jobs import Job, Result, due_times
from loadtests.support.payloads import VARIETY, make_batch
from server.core.events.decode import decode_batch
from server.core.events.ids import new_ids
from server.core.events.model import BatchInfo
from storage import documents
from storage.indexes import EVENTS

ID_END = documents.BYTES_BEFORE_END
ID_START = ID_END - documents.UUID_BYTES
"""The bytes of the event's id in a document."""

MOST_CALLS_PER_S = {"insert_many": 250, "insert_one": 5_000}
"""Calls for which documents are made in advance: more than a generator can make. If they run out, the turn ends."""

NS_PER_MS = 1_000_000

Batch = list[RawBSONDocument]


def run_mongodb(job: Job, start: Callable[[], None]) -> Result:
    """Insert batches as fast as the driver and the database can, with a thread for each connection."""
    result = Result()
    with MongoClient[dict[str, Any]](job.url) as client, ThreadPoolExecutor(job.connections) as threads:
        database = client.get_database(job.database, write_concern=WriteConcern(w="majority", j=True))
        collection: Collection[Any] = database.get_collection(EVENTS, codec_options=documents.RAW)
        queue = iter(list(batches_of(job)))  # over a list: threads cannot share a generator
        client.admin.command("ping")
        start()
        result.begin()
        works = [threads.submit(insert_in_turn, job, collection, queue, result) for _ in range(job.connections)]
        result.acknowledged = sum(work.result() for work in works)
        result.end()
    return result


def insert_in_turn(job: Job, collection: Collection[Any], queue: Iterator[Batch], result: Result) -> int:
    """Insert one batch after the other. Returns the number of documents."""
    inserted = 0
    for sent_s, batch in zip(due_times(job, result.started_s), queue, strict=False):
        if job.driven == "insert_one":
            collection.insert_one(batch[0])
        else:
            collection.insert_many(batch, ordered=False)
        result.latencies_s.append(time.monotonic() - sent_s)
        inserted += len(batch)
    return inserted


def batches_of(job: Job) -> Iterable[Batch]:
    """Make the documents of every batch as the server does, with new ids in ascending order."""
    random, now_ms = Random(job.seed), time.time_ns() // NS_PER_MS
    templates = []
    for _ in range(VARIETY):
        batch = decode_batch(make_batch(random, job.batch_size))
        assert batch is not None
        info = BatchInfo(job.tenant_id, batch.source, batch.source_id, now_ms)
        blank_ids = [bytes(ID_END - ID_START)] * job.batch_size
        templates.append(documents.encode(info, blank_ids, batch.events, batch.times))
    for index in range(math.ceil(job.seconds * MOST_CALLS_PER_S[job.driven])):
        ids = new_ids(now_ms + index, job.batch_size).binary
        yield [
            RawBSONDocument(template[:ID_START] + event_id + template[ID_END:])
            for template, event_id in zip(templates[index % VARIETY], ids, strict=True)
        ]
