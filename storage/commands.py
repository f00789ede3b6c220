"""Calls the database: plain commands for the frequent reads and writes, time limits, and retries.

A plain command costs a worker less CPU than the driver's collection methods. An insert takes 0.8 of what `insert_many`
takes for each document, and a read half of what a cursor takes.

The commands raise driver errors. So they are called inside `driver_errors_as_unavailable` or one of the retries.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import pymongo
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import BulkWriteError, ExecutionTimeout, OperationFailure, PyMongoError, WriteConcernError

from server.core.deadline import Deadline
from server.core.errors import Outcome, Unavailable
from server.core.ingest.store import NotInserted
from storage.failures import TEMPORARY_CODES, logged_failure_of
from storage.refusals import not_inserted_for

Document = dict[str, Any]
Database = AsyncDatabase[Document]
Result = TypeVar("Result")

RETRY_PAUSE_S = 0.05
"""The pause between two attempts: short beside an election, which takes a second or more."""

PRIMARY_ALONE: Document = {"w": 1}

MAJORITY: Document = {"w": "majority", "j": True}
"""The write concern of all that is acknowledged to clients."""


class EncodedDocuments(RawBSONDocument):
    """BSON documents, one after the other. An insert command has the same form, so the driver copies them as one.

    It serves inserts only: its fields cannot be read. A RawBSONDocument for each document would add a twelfth to all
    the CPU that a worker spends on an event.
    """

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded

    @property
    def raw(self) -> bytes:
        """The bytes of the documents."""
        return self._encoded

    def __repr__(self) -> str:
        """The size only: the content must not reach a log."""
        return f"EncodedDocuments of {len(self._encoded)} bytes"


async def insert_each(
    database: Database, collection: str, documents: Sequence[Mapping[str, Any]]
) -> dict[int, NotInserted]:
    """Insert documents of at most 15 MiB together. Return when the others are in the journals of a majority.

    Returns those that were not inserted, by index. The index counts documents; one EncodedDocuments holds many.
    """
    command = {"insert": collection, "documents": documents, "ordered": False, "writeConcern": MAJORITY}
    reply = await database.command(command)
    check_write_concern(reply)
    not_inserted = {error["index"]: not_inserted_for(error) for error in reply.get("writeErrors", ())}
    for code in TEMPORARY_CODES.intersection(why.code for why in not_inserted.values()):
        raise OperationFailure("not now", code)
    return not_inserted


async def delete_each(database: Database, collection: str, query: Document) -> None:
    """Delete the documents that match. Return when they are gone from the journals of a majority."""
    command = {"delete": collection, "deletes": [{"q": query, "limit": 0}], "writeConcern": MAJORITY}
    reply = await database.command(command)
    check_write_concern(reply)
    if reply.get("writeErrors"):
        raise BulkWriteError(reply)


def check_write_concern(reply: Mapping[str, Any]) -> None:
    """Raises WriteConcernError if it is not certain that a majority has what a command wrote."""
    if "writeConcernError" in reply:
        raise WriteConcernError("not on a majority", reply["writeConcernError"]["code"])


async def find_each(
    database: Database, collection: str, query: Document, projection: Document, count: int
) -> list[Document]:
    """The documents that match, at most `count`, as the primary has them now. A majority may not have them yet."""
    command = {
        "find": collection,
        "filter": query,
        "projection": projection,
        "batchSize": count + 1,
        "singleBatch": True,
        "readConcern": {"level": "local"},
    }
    reply = await database.command(command, codec_options=database.codec_options)
    found: list[Document] = reply["cursor"]["firstBatch"]
    return found


async def update_each(
    database: Database, collection: str, statements: Sequence[Document], write_concern: Document = PRIMARY_ALONE
) -> None:
    """Run update statements, which may have constants (`c`). Return when `write_concern` is met."""
    reply = await database.command(
        {"update": collection, "updates": statements, "ordered": False, "writeConcern": write_concern}
    )
    check_write_concern(reply)
    if reply.get("writeErrors"):
        raise BulkWriteError(reply)


@contextmanager
def time_limit(deadline: Deadline) -> Iterator[None]:
    """End every driver call inside when `deadline` passes, including its own retries and its wait for a primary.

    Raises Unavailable if no time is left.
    """
    seconds = deadline.remaining()
    if seconds <= 0:  # the driver would take it for "no limit"
        raise Unavailable
    with pymongo.timeout(seconds):
        yield


@contextmanager
def driver_errors_as_unavailable(outcome: Outcome | None = None) -> Iterator[None]:
    """Turn driver errors inside into Unavailable, unless they are bugs: those are re-raised unchanged.

    `outcome` is what a write leaves behind if it fails halfway. If no server was reached, nothing is left behind.
    """
    try:
        yield
    except PyMongoError as error:
        failure = logged_failure_of(error)
        if failure is None:
            raise
        raise Unavailable(outcome if failure.was_sent else None) from None


async def retry_event_write(write: Callable[[], Awaitable[Result]], deadline: Deadline) -> tuple[Result, bool]:
    """Call `write`, which stores events, until it succeeds. It must write the same each time.

    It is called again after temporary errors while time is left, since elections are short. Returns its result, and
    whether an earlier attempt may have stored events. Raises Unavailable, with the outcome "unknown" if any attempt
    may have stored events: at once if no server can be reached, or if the error is not temporary.
    """
    was_in_doubt = False
    while deadline.remaining() > 0:
        try:
            with time_limit(deadline):
                return await write(), was_in_doubt
        except Unavailable:  # no time is left
            break
        except PyMongoError as error:
            failure = logged_failure_of(error)
            if failure is None:
                raise
        was_in_doubt = was_in_doubt or failure.was_sent
        if not failure.is_temporary or deadline.remaining() < RETRY_PAUSE_S:
            break
        await asyncio.sleep(RETRY_PAUSE_S)
    raise Unavailable("unknown" if was_in_doubt else None)


async def retry_without_events(call: Callable[[], Awaitable[Result]], deadline: Deadline) -> Result:
    """Call `call`, which reads or writes but stores no event, until it succeeds, as `retry_event_write` does.

    Returns its result. Raises Unavailable without an outcome, even if the call itself was carried out.
    """
    try:
        result, _ = await retry_event_write(call, deadline)
    except Unavailable:
        raise Unavailable from None
    return result


async def attempt(
    database: Database, command: Document, limit_ms: int, codec_options: CodecOptions[Any], deadline: Deadline
) -> Any:
    """The reply to a command that reads; None if the database would take longer than `limit_ms`. Raises Unavailable."""
    limited = {**command, "maxTimeMS": limit_ms}
    return await retry_without_events(partial(attempt_once, database, limited, codec_options, deadline), deadline)


async def attempt_once(
    database: Database, command: Document, codec_options: CodecOptions[Any], deadline: Deadline
) -> Any:
    """The reply to a command; None if it takes longer than its `maxTimeMS`. Raises the driver's errors."""
    try:
        with pymongo.timeout(None):  # else the driver would put its own limit in the place of `maxTimeMS`
            async with asyncio.timeout(deadline.remaining()):
                return await database.command(command, codec_options=codec_options)
    except ExecutionTimeout:
        return None
    except TimeoutError:
        raise Unavailable from None


async def listed(database: Database, command: str, value: Any = 1, **options: Any) -> list[Document]:
    """What a command lists: collections, or the indexes of one. There are far fewer than a reply can hold."""
    reply = await database.command(command, value, cursor={"batchSize": 1_000}, **options)
    found: list[Document] = reply["cursor"]["firstBatch"]
    return found
