"""Tenants for the tests: the commands, events from long ago, and what is left of a tenant."""

import time
from collections.abc import Iterator
from uuid import UUID

from bson.binary import Binary
from bson.max_key import MaxKey
from click.testing import CliRunner, Result

from server.cli.main import cli
from server.core.events.ids import new_ids
from server.core.events.model import BatchInfo, Event
from server.core.times import MS_PER_S
from storage.documents import encode
from tests.support.harness import IN_PROCESS, Json, MongoClient, Server
from tests.support.many_events import INSERT_EVENTS, insert_encoded

S_PER_DAY = 24 * 60 * 60


def tenants(server: Server, command: str, *arguments: str) -> Result:
    """Run a command of `sluice tenants` in this process."""
    words = ["tenants", command, *server.database_options, *arguments]
    with IN_PROCESS:
        return CliRunner().invoke(cli, words, standalone_mode=False)


def insert_old(mongo: MongoClient, key: Json, count: int, days: float, source: str = "old") -> None:
    """Insert events of the key's tenant as if they had been received some days ago, a millisecond after each other."""
    first = int((time.time() - days * S_PER_DAY) * MS_PER_S)
    tenant_id = UUID(key["tenant_id"])
    for start in range(0, count, INSERT_EVENTS):
        documents = []
        for number in range(start, min(start + INSERT_EVENTS, count)):
            info = BatchInfo(tenant_id, source, None, first + number)
            documents += encode(info, new_ids(first + number, 1).binary, [Event("old", {"number": number})], [None])
        insert_encoded(mongo, documents)


def events_of(mongo: MongoClient, key: Json, **where: str) -> Iterator[Json]:
    """The events of a tenant."""
    own = {"tenant_id": Binary.from_uuid(UUID(key["tenant_id"]))}
    within = {"$gte": own, "$lt": {**own, "": MaxKey()}}
    return iter(mongo.sluice.events.find({"_id": within, **where}, hint=[("_id", 1)]))


def left_of(mongo: MongoClient, key: Json) -> list[str]:
    """The collections that have the id or the name of a tenant anywhere in their documents, and views that have."""
    traces = [UUID(key["tenant_id"]).bytes, key["tenant_id"].encode(), key["tenant"].encode()]
    found = []
    for collection in mongo.sluice.list_collections():
        if key["tenant"] in str(collection) or key["tenant_id"] in str(collection):
            found.append(str(collection["name"]))
        elif collection["type"] != "view" and collection["name"] != "system.views":  # which are the views, once more
            batches = mongo.sluice[collection["name"]].find_raw_batches()
            if any(trace in batch for batch in batches for trace in traces):
                found.append(str(collection["name"]))
    return found
