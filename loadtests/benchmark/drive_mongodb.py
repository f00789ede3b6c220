"""Drive MongoDB without a server, with the documents that the server would make of the same events, ready-made as BSON.

`insert_many` of 1,000 a call is the ceiling of any server; `insert_one` is what clients get without one. Both wait for
a majority and its journal, as the server does. Imports PyMongo, the payloads, the job, and how documents are made.
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

ID_START = 4 + len(documents.ID_ELEMENT)
ID_END = ID_START + 16
"""Where the 16 bytes of `_id` stand in a document: behind its size, and what BSON says before them."""

MOST_CALLS_PER_S = {"insert_many": 250, "insert_one": 5_000}
"""More than one generator can get done, so that what is ready-made lasts; if it does not, the turn is shorter."""

NS_PER_MS = 1_000_000

Batch = list[RawBSONDocument]


def run_mongodb(job: Job, start: Callable[[], None]) -> Result:
    """Insert batches as fast as the driver and the database can, from as many threads as there are connections."""
    result = Result()
    with MongoClient[dict[str, Any]](job.url) as client, ThreadPoolExecutor(job.connections) as threads:
        database = client.get_database(job.database, write_concern=WriteConcern(w="majority", j=True))
        collection: Collection[Any] = database.get_collection(EVENTS, codec_options=documents.RAW)
        queue = iter(list(ready_made(job)))  # of a list, because threads may share no other iterator
        client.admin.command("ping")
        start()
        result.begin()
        works = [threads.submit(insert_in_turn, job, collection, queue, result) for _ in range(job.connections)]
        result.acknowledged = sum(work.result() for work in works)
        result.end()
    return result


def insert_in_turn(job: Job, collection: Collection[Any], queue: Iterator[Batch], result: Result) -> int:
    """Insert one batch after the other. Returns how many documents that were."""
    inserted = 0
    for sent_s, batch in zip(due_times(job, result.started_s), queue, strict=False):
        if job.driven == "insert_one":
            collection.insert_one(batch[0])
        else:
            collection.insert_many(batch, ordered=False)
        result.latencies_s.append(time.monotonic() - sent_s)
        inserted += len(batch)
    return inserted


def ready_made(job: Job) -> Iterable[Batch]:
    """The documents of every batch: the server's own, with ids that were never used and ascend."""
    random, now_ms = Random(job.seed), time.time_ns() // NS_PER_MS
    templates = []
    for _ in range(VARIETY):
        batch = decode_batch(make_batch(random, job.batch_size))
        assert batch is not None
        header = BatchInfo(job.tenant_id, batch.source, batch.source_id, now_ms)
        no_ids = [bytes(ID_END - ID_START)] * job.batch_size
        templates.append(documents.encode(header, no_ids, batch.events, batch.times))
    for index in range(math.ceil(job.seconds * MOST_CALLS_PER_S[job.driven])):
        ids = new_ids(now_ms + index, job.batch_size).binary
        yield [
            RawBSONDocument(template[:ID_START] + event_id + template[ID_END:])
            for template, event_id in zip(templates[index % VARIETY], ids, strict=True)
        ]
