"""The one file that knows which driver is in use: it connects, sets deadlines, and turns driver errors into ours.

Motor is the default; PyMongo's own asynchronous client is the other. Their calls are the same but for a few, and those
few are hidden here, so the rest of `storage` is written once, against PyMongo's types.

Rules: no driver exception, and no text of one, leaves `storage`. May import the drivers and `server.core`.
"""

import asyncio
import inspect
import logging
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, cast

import pymongo
from bson import CodecOptions
from bson.binary import UuidRepresentation
from bson.raw_bson import RawBSONDocument
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, ReadPreference, ReturnDocument, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    ExecutionTimeout,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
    WTimeoutError,
)
from pymongo.errors import ConfigurationError as DriverConfigurationError
from pymongo.monitoring import (
    TopologyClosedEvent,
    TopologyDescriptionChangedEvent,
    TopologyListener,
    TopologyOpenedEvent,
)
from pymongo.read_concern import ReadConcern

from server.core.deadline import Deadline
from server.core.errors import ConfigurationError, Outcome, Unavailable
from server.core.ingest.store import NotInserted

Driver = Literal["motor", "pymongo"]
Document = dict[str, Any]
Client = AsyncMongoClient[Document]
Database = AsyncDatabase[Document]
Result = TypeVar("Result")
RawCollection = AsyncCollection[RawBSONDocument]

URL_SCHEMES = ("mongodb://", "mongodb+srv://")

AFTER = ReturnDocument.AFTER
"""LeaseRequest `find_one_and_update` for the document as it became."""

log = logging.getLogger("sluice")

SERVER_SELECTION_TIMEOUT_MS = 5_000
"""How long a call waits for a primary: long enough for a tuned election, short enough to answer within the request."""

CONNECT_TIMEOUT_MS = 2_000
"""A TCP connection and handshake. A host that takes longer is as good as gone."""

HEARTBEAT_MS = 1_000
"""How often the driver looks at each server. The default of 10 s would notice a lost primary too late."""

RETRY_PAUSE_S = 0.05
"""Between two attempts at a write: nothing beside an election, which takes a second or more."""

CLOSE_TIMEOUT_S = 1
"""For the courtesy of ending sessions on the server, which may be gone."""

OLDEST_VERSION = (6, 0)
"""MongoDB releases before this one are not tested."""

UNAVAILABLE_CODES = frozenset(
    {
        6,  # HostUnreachable
        7,  # HostNotFound
        24,  # LockTimeout
        50,  # MaxTimeMSExpired
        64,  # WriteConcernTimeout
        79,  # UnknownReplWriteConcern
        89,  # NetworkTimeout
        91,  # ShutdownInProgress
        100,  # UnsatisfiableWriteConcern
        112,  # WriteConflict
        133,  # FailedToSatisfyReadPreference
        134,  # ReadConcernMajorityNotAvailableYet
        189,  # PrimarySteppedDown
        202,  # NetworkInterfaceExceededTimeLimit
        262,  # ExceededTimeLimit
        10058,  # LegacyNotPrimary
        10107,  # NotWritablePrimary
        11600,  # InterruptedAtShutdown
        11602,  # InterruptedDueToReplStateChange
        13435,  # NotPrimaryNoSecondaryOk
        13436,  # NotPrimaryOrSecondary
    }
)
"""Server errors that mean "not now": the same call may well succeed a moment later. Any other is a fault of ours."""

DUPLICATE_KEY = 11000

OPERATOR_ERRORS = {
    13: "the user in --mongodb-url may not use this database: grant it the role readWrite",  # Unauthorized
    18: "the database refuses the user or password in --mongodb-url",  # AuthenticationFailed
    13297: "--database differs from an existing one in capitals only, which MongoDB refuses",  # DatabaseDiffersCase
}
"""Server errors that only the operator can mend, and how."""


def connect(url: str, driver: Driver, **options: Any) -> Client:
    """A client of the deployment at `url`, with Sluice's timeouts, which win over the URL's. It connects when used.

    `options` are extra driver options. Raises ConfigurationError where `url` is not a MongoDB URL.
    """
    settings: dict[str, Any] = {
        "appname": "sluice",
        "connectTimeoutMS": CONNECT_TIMEOUT_MS,
        "heartbeatFrequencyMS": HEARTBEAT_MS,
        "serverSelectionTimeoutMS": SERVER_SELECTION_TIMEOUT_MS,
        **options,
    }
    # The driver's text may quote the URL, password and all.
    no_url = ConfigurationError("--mongodb-url is not a MongoDB URL: use mongodb://HOST:PORT/?replicaSet=NAME")
    if not url.startswith(URL_SCHEMES):  # which the driver would take for the name of a host
        raise no_url
    try:
        with warnings.catch_warnings(action="error", category=UserWarning):
            if driver == "pymongo":
                return AsyncMongoClient(url, **settings)
            return cast("Client", AsyncIOMotorClient(url, **settings))
    except UserWarning:
        raise ConfigurationError("--mongodb-url has an option that MongoDB drivers do not know") from None
    except OSError as error:
        raise ConfigurationError(
            f"--mongodb-url names a file that cannot be read ({error.strerror}): {error.filename}"
        ) from None
    except (InvalidURI, DriverConfigurationError, ValueError):
        raise no_url from None


def database(client: Client, name: str) -> Database:
    """The database `name`: writes wait for a majority and its journal, reads never show what could roll back."""
    return client.get_database(
        name,
        codec_options=CodecOptions(tz_aware=True, uuid_representation=UuidRepresentation.STANDARD),
        read_preference=ReadPreference.PRIMARY,
        write_concern=WriteConcern(w="majority", j=True),
        read_concern=ReadConcern("majority"),
    )


def raw_collection(database: Database, name: str, options: CodecOptions[RawBSONDocument]) -> RawCollection:
    """A collection whose documents are handed over as bytes."""
    return cast("RawCollection", database.get_collection(name, codec_options=cast("CodecOptions[Any]", options)))


class EncodedDocuments(RawBSONDocument):
    """Documents in BSON, one after the other, which is how they stand in an insert: the driver copies them as one.

    It is good for that alone, and not for looking inside. A RawBSONDocument for each document would cost a twelfth of
    all that a worker does for an event.
    """

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded

    @property
    def raw(self) -> bytes:
        """The documents."""
        return self._encoded

    def __repr__(self) -> str:
        """Nothing of what they hold."""
        return f"EncodedDocuments of {len(self._encoded)} bytes"


async def update_each(database: Database, collection: str, statements: Sequence[Document]) -> None:
    """Run update statements, which may have constants (`c`), with the primary's word that they are done.

    Raises driver errors: see `driver_errors_as_unavailable`.
    """
    reply = await database.command(
        {"update": collection, "updates": statements, "ordered": False, "writeConcern": {"w": 1}}
    )
    if reply.get("writeErrors"):
        raise BulkWriteError(reply)


async def insert_each(
    database: Database, collection: str, documents: Sequence[Mapping[str, Any]]
) -> dict[int, NotInserted]:
    """Insert documents of at most 15 MiB together. Returns those that were not inserted, by index.

    The index counts documents, of which an EncodedDocuments is many.

    A plain command, at 0.8 of what `insert_many` costs a worker for each document. Raises driver errors: use it inside
    of `driver_errors_as_unavailable`.
    """
    concern = {"w": "majority", "j": True}
    command = {"insert": collection, "documents": documents, "ordered": False, "writeConcern": concern}
    reply = await database.command(command)
    if "writeConcernError" in reply:
        raise WriteConcernError("not on a majority", reply["writeConcernError"]["code"])
    not_inserted = {error["index"]: not_inserted_for(error) for error in reply.get("writeErrors", ())}
    for code in UNAVAILABLE_CODES.intersection(why.code for why in not_inserted.values()):
        raise OperationFailure("not now", code)
    return not_inserted


def not_inserted_for(error: Mapping[str, Any]) -> NotInserted:
    """What a write error means. An operator may add unique indexes, so a duplicate need not be one of our `_id`."""
    return NotInserted(
        code=error["code"], already_stored=error["code"] == DUPLICATE_KEY and error.get("keyPattern") == {"_id": 1}
    )


async def find_each(
    database: Database, collection: str, query: Document, projection: Document, count: int
) -> list[Document]:
    """The documents that match, `count` at most, as the primary has them at this moment.

    A plain command, at half of what a cursor costs a worker. Raises driver errors: see `driver_errors_as_unavailable`.
    """
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


async def retry_unless_answered(call: Callable[[], Awaitable[Result]], deadline: Deadline) -> Result:
    """What `call` returns, which stores no event, whatever becomes of it. It is tried again as by `retry_write`.

    Raises Unavailable, which says that nothing was stored.
    """
    try:
        result, _ = await retry_write(call, deadline)
    except Unavailable:
        raise Unavailable("not_stored") from None
    return result


async def retry_write(write: Callable[[], Awaitable[Result]], deadline: Deadline) -> tuple[Result, bool]:
    """What `write` returns, and whether an earlier attempt may have been carried out.

    It is tried again while the database says "not now" and there is time: elections are short. What it writes must be
    the same each time. Raises Unavailable, at once where no server can be reached.
    """
    was_in_doubt = False
    while True:
        try:
            with driver_errors_as_unavailable("unknown"), time_limit(deadline):
                return await write(), was_in_doubt
        except Unavailable as error:
            was_in_doubt = was_in_doubt or error.outcome == "unknown"
            if error.outcome == "not_stored" or deadline.remaining() < RETRY_PAUSE_S:
                raise Unavailable("unknown" if was_in_doubt else "not_stored") from None
        await asyncio.sleep(RETRY_PAUSE_S)


async def close(client: Client) -> None:
    """Close every connection of `client`."""
    with pymongo.timeout(CLOSE_TIMEOUT_S):
        closing = client.close()
        if inspect.isawaitable(closing):  # a coroutine of PyMongo's client, a plain call of Motor's
            await closing


async def check_deployment(client: Client) -> str:
    """Make sure `client` reaches a deployment that can keep our promises, and return its version, such as "6.0.5".

    Raises ConfigurationError where it is too old or a standalone server, Unavailable where it cannot be reached.
    """
    with driver_errors_as_unavailable():
        hello = await client.admin.command("hello")
        version = str((await client.admin.command("buildInfo"))["version"])
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise ConfigurationError(
            "--mongodb-url names a standalone server, which cannot confirm writes by a majority: "
            "use a replica set (one member will do) or a sharded cluster"
        )
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_VERSION:
        raise ConfigurationError(f"MongoDB {version} is too old: 6.0 or later is needed")
    return version


@contextmanager
def errors_as_configuration() -> Iterator[None]:
    """Turn what the database says inside of wrong settings into ConfigurationError."""
    try:
        yield
    except OperationFailure as error:
        if error.code not in OPERATOR_ERRORS:
            raise
        raise ConfigurationError(OPERATOR_ERRORS[error.code]) from None
    except DriverConfigurationError:
        raise ConfigurationError("--mongodb-url names a cluster (mongodb+srv) that DNS does not know") from None


async def ping(client: Client, timeout_s: float) -> None:
    """Return when a primary answers. Raises Unavailable where none does within `timeout_s` seconds."""
    with driver_errors_as_unavailable(), pymongo.timeout(timeout_s):
        await client.admin.command("ping")


class PrimaryWatch(TopologyListener):
    """Logs when the database stops taking writes, and when it takes them again, and calls `on_change` with which."""

    def __init__(self, on_change: Callable[[bool], object]) -> None:
        self._on_change = on_change

    def opened(self, event: TopologyOpenedEvent) -> None:
        """Nothing is known yet."""

    def closed(self, event: TopologyClosedEvent) -> None:
        """Our own doing."""

    def description_changed(self, event: TopologyDescriptionChangedEvent) -> None:
        """Compare."""
        had = event.previous_description.has_writable_server()
        has = event.new_description.has_writable_server()
        closing = not event.new_description.server_descriptions()
        if had and not has and not closing:
            log.warning("the database takes no writes: there is no primary to be reached")
            self._on_change(False)
        if has and not had:
            log.info("the database takes writes")
            self._on_change(True)


@contextmanager
def time_limit(deadline: Deadline) -> Iterator[None]:
    """Let no driver call inside outlast `deadline`, retries and waits for a primary included.

    Raises Unavailable where no time is left.
    """
    seconds = deadline.remaining()
    if seconds <= 0:  # which the driver would take for "no limit"
        raise Unavailable("not_stored")
    with pymongo.timeout(seconds):
        yield


@contextmanager
def driver_errors_as_unavailable(outcome: Outcome = "not_stored") -> Iterator[None]:
    """Turn the driver's "not now" errors inside into Unavailable; `outcome` is what a call cut short leaves behind.

    A write passes "unknown". It still becomes "not_stored" where no server was ever reached.
    Errors that waiting cannot mend pass through: they are faults to be found, not weather.
    """
    try:
        yield
    except (ServerSelectionTimeoutError, WaitQueueTimeoutError):
        raise Unavailable("not_stored") from None
    except (ConnectionFailure, ExecutionTimeout, WTimeoutError):
        raise Unavailable(outcome) from None
    except BulkWriteError as error:
        if error_codes(error) <= UNAVAILABLE_CODES:
            raise Unavailable(outcome) from None
        raise
    except OperationFailure as error:
        if error.code in UNAVAILABLE_CODES or error.has_error_label("RetryableWriteError"):
            raise Unavailable(outcome) from None
        raise
    except PyMongoError as error:
        if error.timeout:
            raise Unavailable(outcome) from None
        raise


def error_codes(error: BulkWriteError) -> set[int]:
    """Every server code in `error`: of single writes and of the write concern."""
    details = error.details or {}
    return {int(item["code"]) for item in [*details.get("writeErrors", []), *details.get("writeConcernErrors", [])]}
