"""Drives MongoDB without a server, with documents that hold the same events as those that the server would store.

There are two baselines. Both wait for a majority and its journal, as the server does. The BSON is made in advance, so a
client has no other work than to send it.

* The ceiling (`insert_command`) is what no server can exceed: the server's own documents, into a collection with the
  server's layout. A plain `insert` command takes the documents of a batch as one piece of bytes, which is the cheapest.
* Plain MongoDB (`insert_many`, `insert_one`) is what people build by hand. A document has a UUID as its `_id`, and its
  tenant in the field `tenant_id`. The collection is a usual one with an index on both. PyMongo's collection methods
  insert the documents. The UUIDs ascend, which is the cheapest for an index.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any
from uuid import uuid4

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, WriteConcern
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError

from loadtests.benchmark.jobs import Job, Result, due_times
from loadtests.support.payloads import VARIETY, make_batch
from server.core.events.decode import decode_batch
from server.core.events.ids import new_ids
from server.core.events.model import BatchInfo
from storage import documents
from storage.commands import MAJORITY, EncodedDocuments, check_write_concern
from storage.indexes import EVENTS

PLACEHOLDER = uuid4().bytes
"""Stands for the event's id in a document that is made once and sent with many ids."""

MOST_CALLS_PER_S = {1: 5_000, 10: 5_000, 100: 2_000, 1_000: 250}
"""By batch size, the calls for which documents are made in advance: more than a generator can make. If they run out,
the turn ends."""

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
        match job.driven:
            case "insert_command":
                insert(collection, batch)
            case "insert_many":
                collection.insert_many(batch, ordered=False)
            case _:
                collection.insert_one(batch[0])
        result.latencies_s.append(time.monotonic() - sent_s)
        inserted += job.batch_size
    return inserted


def insert(collection: Collection[Any], batch: Batch) -> None:
    """Insert a batch by a plain command. Raises the driver's errors unless a majority has all of it."""
    command = {"insert": collection.name, "documents": batch, "ordered": False, "writeConcern": MAJORITY}
    reply = collection.database.command(command)
    check_write_concern(reply)
    if "writeErrors" in reply:
        raise BulkWriteError(reply)


def batches_of(job: Job) -> Iterable[Batch]:
    """Make the documents of every batch, with new ids in ascending order."""
    random, now_ms = Random(job.seed), time.time_ns() // NS_PER_MS
    templates = [list(templates_of(job, make_batch(random, job.batch_size), now_ms)) for _ in range(VARIETY)]
    for index in range(math.ceil(job.seconds * MOST_CALLS_PER_S[job.batch_size])):
        ids = new_ids(now_ms + index, job.batch_size).binary
        made = [event_id.join(parts) for parts, event_id in zip(templates[index % VARIETY], ids, strict=True)]
        yield [EncodedDocuments(b"".join(made))] if job.driven == "insert_command" else list(map(RawBSONDocument, made))


def templates_of(job: Job, body: bytes, now_ms: int) -> Iterator[list[bytes]]:
    """Make the document of each event of a batch, as the parts before and after its id."""
    batch = decode_batch(body)
    assert batch is not None
    info = BatchInfo(job.tenant_id, batch.source, batch.source_id, now_ms)
    for document in documents.encode(info, [PLACEHOLDER] * job.batch_size, batch.events, batch.times):
        template = document if job.driven == "insert_command" else plain(document)
        yield template.split(PLACEHOLDER)


def plain(encoded: bytes) -> bytes:
    """Return the same event as a document with the two ids in fields of their own."""
    fields = dict(RawBSONDocument(encoded, documents.RAW))
    ids = fields.pop("_id")
    return bson.encode({"_id": ids["id"], "tenant_id": ids["tenant_id"], **fields}, codec_options=documents.RAW)
