"""Asks the database what `sluice check` says about it. Nothing here writes. All functions raise the driver's errors."""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from typing import Any, NamedTuple

from bson.timestamp import Timestamp
from pymongo.errors import OperationFailure

from server.core.deadline import Deadline
from storage.client import Client
from storage.commands import Database, Document, listed, time_limit
from storage.failures import UNAUTHORIZED
from storage.indexes import COLLECTIONS
from storage.tail import HISTORY_LOST

TIMEOUT_S = 5.0
"""How long one question may take, which includes the wait for a primary."""

CLOCK_SAMPLES = 5
"""How often the database is asked for its time. The fastest response says most about it."""

FULL_SHARE = 0.9
"""From this share of its size on, an oplog drops its oldest entries: MongoDB drops them in pieces."""

ALL_COLLECTIONS = "$cmd.aggregate"
"""MongoDB's name of what a change stream of a whole database reads."""

MIB, S_PER_H = 2**20, 3_600

RIGHTS_ON_ALL = ("find", "changeStream", "createCollection", "dropCollection", "listCollections")
"""What the user may do with all collections of the database: views have the names of tenants."""

RIGHTS_ON_EACH = ("insert", "update", "remove", "createIndex", "listIndexes")
"""What the user may do with each of Sluice's collections."""


class ClockOffset(NamedTuple):
    """How far this machine's clock is ahead of the database's."""

    seconds: float
    uncertainty_s: float
    """How wrong `seconds` may be: half the time that the response took."""


class Oplog(NamedTuple):
    """The log of changes."""

    size_mib: int
    """How large it may become."""
    hours: float
    """From its oldest entry to its newest."""
    is_full: bool
    """Whether it drops old entries for new ones."""


async def ping(client: Client) -> None:
    """Return if the database responds, and takes the user."""
    with time_limit(Deadline(TIMEOUT_S)):
        await client.admin.command("ping")


async def hello(client: Client) -> Document:
    """What the database says of its part in the deployment."""
    with time_limit(Deadline(TIMEOUT_S)):
        return dict(await client.admin.command("hello"))


async def version(client: Client) -> str:
    """The version, such as "6.0.5"."""
    with time_limit(Deadline(TIMEOUT_S)):
        return str((await client.admin.command("buildInfo"))["version"])


async def clock_offset(client: Client) -> ClockOffset:
    """Compare the clocks."""
    samples = []
    for _ in range(CLOCK_SAMPLES):
        begin = time.time()
        response = await hello(client)
        took = max(time.time() - begin, 0.0)
        moment = response["localTime"].replace(tzinfo=UTC).timestamp()
        samples.append(ClockOffset(begin + took / 2 - moment, took / 2))
    return min(samples, key=lambda sample: sample.uncertainty_s)


async def missing_rights(database: Database) -> list[str]:
    """What the user lacks, by MongoDB's names of actions. Nothing is missing if the database checks no rights."""
    with time_limit(Deadline(TIMEOUT_S)):
        status = await database.command({"connectionStatus": 1, "showPrivileges": True})
        if not status["authInfo"]["authenticatedUsers"]:
            await listed(database, "listCollections")  # raises if a user is needed
            return []
    privileges = status["authInfo"]["authenticatedUserPrivileges"]
    return [*missing(privileges, database.name, RIGHTS_ON_ALL, [""]), *missing_on_each(privileges, database.name)]


def missing_on_each(privileges: Sequence[Mapping[str, Any]], database: str) -> Iterator[str]:
    """The rights that the user lacks on any of Sluice's collections."""
    return missing(privileges, database, RIGHTS_ON_EACH, COLLECTIONS)


def missing(
    privileges: Sequence[Mapping[str, Any]], database: str, actions: Sequence[str], collections: Sequence[str]
) -> Iterator[str]:
    """Those of the actions that no privilege covers on any one of the collections. "" is all collections together."""
    for action in actions:
        granted = [each["resource"] for each in privileges if action in each["actions"]]
        if not all(any(covers(resource, database, name) for resource in granted) for name in collections):
            yield action


def covers(resource: Mapping[str, Any], database: str, collection: str) -> bool:
    """Whether the resource of a privilege contains a collection, or all collections of the database for ""."""
    if resource.get("anyResource"):
        return True
    return resource.get("db") in ("", database) and resource.get("collection") in ("", collection)


async def oplog(database: Database) -> Oplog | None:
    """The oplog; None if the user may not see it, as with readWrite alone, or if there are many, in a cluster."""
    local = database.client.local
    try:
        with time_limit(Deadline(TIMEOUT_S)):
            stats = await local.command("collStats", "oplog.rs")
            if "maxSize" not in stats:
                return None
            first = await local["oplog.rs"].find_one(sort=[("$natural", 1)], projection={"ts": 1})
            last = await local["oplog.rs"].find_one(sort=[("$natural", -1)], projection={"ts": 1})
    except OperationFailure as error:
        if error.code == UNAUTHORIZED:
            return None
        raise
    hours = (last["ts"].time - first["ts"].time) / S_PER_H if first and last else 0.0
    return Oplog(stats["maxSize"] // MIB, hours, stats["size"] >= FULL_SHARE * stats["maxSize"])


async def has_history(database: Database, hours: float) -> bool:
    """Whether the oplog reaches back this far, or to the first write: whether a change stream can begin there."""
    changes = {"startAtOperationTime": Timestamp(int(time.time() - hours * S_PER_H), 1)}
    try:
        with time_limit(Deadline(TIMEOUT_S)):
            reply = await database.command({"aggregate": 1, "pipeline": [{"$changeStream": changes}], "cursor": {}})
            await database.command({"killCursors": ALL_COLLECTIONS, "cursors": [reply["cursor"]["id"]]})
    except OperationFailure as error:
        if error.code in HISTORY_LOST:
            return False
        raise
    return True
