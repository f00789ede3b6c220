"""Checks that the database takes writes, by a write: a ping also succeeds with a full disk or without a majority."""

from bson import ObjectId

from server.core.deadline import Deadline
from server.core.errors import Unavailable
from storage.commands import Database, driver_errors_as_unavailable, insert_each, time_limit
from storage.indexes import PROBES

REFUSES_WRITES = "The database does not take writes now: the server's log says why, or the database's own log"


async def probe(database: Database, timeout_s: float) -> None:
    """Insert a document on a majority, and remove it. Raises Unavailable if that fails or takes over `timeout_s`."""
    try:
        with driver_errors_as_unavailable(), time_limit(Deadline(timeout_s)):
            await write_once(database)
    except Unavailable:
        raise Unavailable(detail=REFUSES_WRITES) from None


async def write_once(database: Database) -> None:
    """Insert a document on a majority, and remove it with all that crashed workers left. Raises the driver's errors."""
    if await insert_each(database, PROBES, [{"_id": ObjectId()}]):
        raise Unavailable
    await database.command({"delete": PROBES, "deletes": [{"q": {}, "limit": 0}], "writeConcern": {"w": 1}})
