"""Connects to MongoDB with either of two drivers, and checks and watches the deployment.

Only this file knows which driver is in use, so that the rest of `storage` is written once. Motor is the default; the
other is PyMongo's own asynchronous client. The calls that we use are the same in both, except for those below. The
types are PyMongo's.
"""

import inspect
import logging
import re
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar, cast

import pymongo
from bson import CodecOptions
from bson.binary import UuidRepresentation
from bson.codec_options import DatetimeConversion
from bson.raw_bson import RawBSONDocument
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import ConfigurationError as DriverConfigurationError
from pymongo.errors import InvalidURI
from pymongo.monitoring import (
    TopologyClosedEvent,
    TopologyDescriptionChangedEvent,
    TopologyListener,
    TopologyOpenedEvent,
)
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri

from server.core.errors import ConfigurationError
from storage.commands import Database, Document
from storage.url_options import option_at_fault

Driver = Literal["motor", "pymongo"]
Client = AsyncMongoClient[Document]
RawCollection = AsyncCollection[RawBSONDocument]
Result = TypeVar("Result")

URL_SCHEMES = ("mongodb://", "mongodb+srv://")

SERVER_SELECTION_TIMEOUT_MS = 5_000
"""The longest wait of a call for a primary. A tuned election takes less, and a request may take more."""

CONNECT_TIMEOUT_MS = 2_000
"""The longest wait for a TCP connection and its handshake. A server that takes longer counts as down."""

HEARTBEAT_MS = 1_000
"""How often the driver checks each server. With its default of 10 s it would notice a lost primary too late."""

CLOSE_TIMEOUT_S = 1
"""The longest wait for the end of sessions on the server, which may be down. It would end them later by itself."""

OLDEST_VERSION = (6, 0)
"""The oldest release of MongoDB that is tested."""

URL_ERRORS = (UserWarning, InvalidURI, DriverConfigurationError, ValueError)
"""What a driver raises for a URL that it does not take, if its warnings are errors."""

NO_COMPRESSION = "Wire protocol compression"
"""How a driver's warning begins that it lacks the library of one of the URL's compressors. It goes on without."""

NO_URL = (
    "--mongodb-url is not a MongoDB URL: use mongodb://HOST:PORT/?replicaSet=NAME, "
    "and percent-encode the user and password"
)
UNKNOWN_OPTION = "--mongodb-url has an option that MongoDB drivers do not know, or several with wrong values"

log = logging.getLogger("sluice")


def connect(url: str, driver: Driver, **options: Any) -> Client:
    """A client of the deployment at `url`. It connects when it is first used.

    Sluice's timeouts override those in the URL. `options` are extra driver options. Raises ConfigurationError if `url`
    is not a MongoDB URL.
    """
    settings: dict[str, Any] = {
        "appname": "sluice",
        "connectTimeoutMS": CONNECT_TIMEOUT_MS,
        "heartbeatFrequencyMS": HEARTBEAT_MS,
        "serverSelectionTimeoutMS": SERVER_SELECTION_TIMEOUT_MS,
        **options,
    }
    if not url.startswith(URL_SCHEMES) or has_stray_at(url):  # the driver would take parts of it for hosts
        raise ConfigurationError(NO_URL)
    try:
        return new_client(url, driver, settings)
    except OSError as error:
        raise ConfigurationError(
            f"--mongodb-url names a file that cannot be read ({error.strerror}): {error.filename}"
        ) from None
    except URL_ERRORS as error:  # its text may quote the URL, including the password
        name = option_at_fault(url, lambda other: is_taken(other, driver, settings))
        if name is not None:
            raise ConfigurationError(
                f"the option {name} of --mongodb-url has a wrong value, or does not fit the rest of the URL: "
                "correct or remove it"
            ) from None
        raise ConfigurationError(UNKNOWN_OPTION if isinstance(error, UserWarning) else NO_URL) from None


def new_client(url: str, driver: Driver, settings: dict[str, Any]) -> Client:
    """A client of a driver. Raises URL_ERRORS, also for options that the driver would only warn of, and OSError."""
    with warnings.catch_warnings(action="error", category=UserWarning):
        warnings.filterwarnings("ignore", NO_COMPRESSION, UserWarning)
        if driver == "pymongo":
            return AsyncMongoClient(url, **settings)
        return cast("Client", AsyncIOMotorClient(url, **settings))


def is_taken(url: str, driver: Driver, settings: dict[str, Any]) -> bool:
    """Whether a driver takes `url`. Nothing connects to it."""
    try:
        new_client(url, driver, settings)
    except (*URL_ERRORS, OSError):
        return False
    return True


def hosts_of(url: str) -> list[tuple[str, int | None]]:
    """The hosts and ports in a URL that `connect` takes, as the driver reads them. Some have no port."""
    scheme = url.partition("://")[0]
    default_port = None if scheme == "mongodb+srv" else 27_017  # DNS knows the ports
    hosts: list[tuple[str, int | None]] = parse_uri("mongodb://" + authority_of(url), default_port)["nodelist"]
    return hosts


def has_stray_at(url: str) -> bool:
    """Whether an @ follows the hosts. Then a `/` or `?` of a password ended them, and what looks like a host is secret.

    An @ belongs there in no other way than as `%40`.
    """
    return "@" in url.partition("://")[2].removeprefix(authority_of(url))


def authority_of(url: str) -> str:
    """The part of a URL with user, password and hosts: up to the first `/` or `?`."""
    return re.split("[/?]", url.partition("://")[2], maxsplit=1)[0]


@asynccontextmanager
async def opened(url: str, driver: Driver, **options: Any) -> AsyncIterator[Client]:
    """A client for a few operations, closed after them. `connect` says what it takes and raises.

    It asks each server for its state now and then. A client that follows the state opens a second connection for that,
    and PyMongo does not close its socket if `close` comes while it connects.
    """
    client = connect(url, driver, serverMonitoringMode="poll", **options)
    try:
        yield client
    finally:
        await close(client)


async def close(client: Client) -> None:
    """Close every connection of `client`."""
    with pymongo.timeout(CLOSE_TIMEOUT_S):
        closing = client.close()
        if inspect.isawaitable(closing):  # a coroutine with PyMongo's client, a plain call with Motor's
            await closing


def database(client: Client, name: str) -> Database:
    """The database `name`. Writes wait for the journals of a majority, and reads return only what a majority has.

    A date that Python does not have, which an operator has put there, does not spoil the documents read with it.
    """
    return client.get_database(
        name,
        codec_options=CodecOptions(
            tz_aware=True,
            uuid_representation=UuidRepresentation.STANDARD,
            datetime_conversion=DatetimeConversion.DATETIME_AUTO,
        ),
        read_preference=ReadPreference.PRIMARY,
        write_concern=WriteConcern(w="majority", j=True),
        read_concern=ReadConcern("majority"),
    )


def raw_collection(database: Database, name: str, options: CodecOptions[RawBSONDocument]) -> RawCollection:
    """A collection whose documents are read as bytes."""
    return cast("RawCollection", database.get_collection(name, codec_options=cast("CodecOptions[Any]", options)))


async def in_transaction(database: Database, work: Callable[[Any], Awaitable[Result]]) -> Result:
    """What `work` returns, which runs in a transaction of the session that it is called with.

    It is called again if the transaction conflicts with another. Returns when a majority has the transaction. Raises
    the driver's errors.
    """
    opening: Any = database.client.start_session()
    async with await opening if inspect.isawaitable(opening) else opening as session:  # Motor's is a coroutine
        majority = {"read_concern": ReadConcern("majority"), "write_concern": WriteConcern(w="majority", j=True)}
        result: Result = await session.with_transaction(work, **majority)
        return result


async def check_deployment(client: Client) -> str:
    """Check that the deployment can keep our promises. Returns its version, such as "6.0.5".

    Raises ConfigurationError if it is too old or a standalone server, and the driver's errors.
    """
    hello = await client.admin.command("hello")
    version = str((await client.admin.command("buildInfo"))["version"])
    check_confirms(hello)
    check_version(version)
    return version


def check_confirms(hello: Mapping[str, Any]) -> None:
    """Raises ConfigurationError if the database, by its response to `hello`, cannot confirm writes by a majority."""
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise ConfigurationError(
            "--mongodb-url names a standalone server, which cannot confirm writes by a majority: "
            "use a replica set (one member will do) or a sharded cluster"
        )


def check_version(version: str) -> None:
    """Raises ConfigurationError if a version is older than the oldest that is tested."""
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_VERSION:
        raise ConfigurationError(f"MongoDB {version} is too old: 6.0 or later is needed")


class PrimaryWatch(TopologyListener):
    """Logs when the database gets or loses its primary, and calls `on_change` with whether there is one."""

    def __init__(self, on_change: Callable[[bool], object]) -> None:
        self._on_change = on_change
        self._primary: tuple[str, int | None] | None = None
        self.changes = 0
        """How often another server was found to be the one that takes writes, but for the first."""

    def opened(self, event: TopologyOpenedEvent) -> None:
        """Do nothing: no server is known yet."""

    def closed(self, event: TopologyClosedEvent) -> None:
        """Do nothing: our own `close` causes it."""

    def description_changed(self, event: TopologyDescriptionChangedEvent) -> None:
        """Tell of a change, unless the client is being closed: then all servers leave the description."""
        self._count_change(event)
        had = event.previous_description.has_writable_server()
        has = event.new_description.has_writable_server()
        closing = not event.new_description.server_descriptions()
        if had and not has and not closing:
            log.warning("the database takes no writes: there is no primary to be reached")
            self._on_change(False)
        if has and not had:
            log.info("the database takes writes")
            self._on_change(True)

    def _count_change(self, event: TopologyDescriptionChangedEvent) -> None:
        """Count a new primary. A sharded cluster has none to count: several of its routers take writes."""
        servers = event.new_description.server_descriptions().values()
        primaries = [server.address for server in servers if server.server_type_name == "RSPrimary"]
        if primaries and primaries[0] != self._primary:
            self.changes += self._primary is not None
            self._primary = primaries[0]
