"""Checks the database: the connection, what kind it is, what its user may do, its clock, and how long it keeps history.

All checks read only, but for one document that is written and removed: nothing else proves that a majority confirms
writes.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from server.core.deadline import Deadline
from server.core.errors import ConfigurationError, Unavailable
from server.runtime.checks.findings import Concern, Finding, find
from server.runtime.checks.machine import check_embedded_mongod
from server.runtime.data_directory import check_owner, has_database
from server.runtime.database import command_named, describe_location
from server.runtime.logs import announce
from server.settings import DatabaseSettings
from storage import checks
from storage.client import Client, check_confirms, check_version, database, opened
from storage.commands import Database, time_limit
from storage.embedded import embedded_database
from storage.indexes import check_collections
from storage.layout import LAYOUT, check_layout
from storage.probe import write_once
from storage.start import WRITE_TIMEOUT_S, errors_at_start

MAX_CLOCK_OFFSET_S, FAR_CLOCK_OFFSET_S = 0.5, 2.0
"""How far the clock may be from the database's before it is a WARN, and a FAIL. Machines with NTP differ by some
milliseconds. Times of receipt, and so the order of events of several hosts, are only as right as the clocks."""

SMALL_OPLOG_MIB = 500
"""The least size of an oplog. The embedded database has 512 MiB; MongoDB's own default is 990 MB or more."""

SHORT_HISTORY_H = 24
"""How many hours of changes an oplog should hold: followers resume, and members catch up, after a night's outage."""

LONGER_OPLOG = "enlarge it with replSetResizeOplog, so that tails can be resumed and members catch up after an outage"


async def check_database(settings: DatabaseSettings) -> AsyncIterator[Finding]:
    """What is found about the database that the settings name. If it cannot be used at all, that is the last."""
    if settings.mongodb_url is not None:
        async for finding in check_deployment_at(settings, settings.mongodb_url):
            yield finding
        return
    data_dir = Path(settings.data_dir)
    try:
        check_owner(data_dir)
        exists = has_database(data_dir)
    except ConfigurationError as error:
        yield Finding("FAIL", "database", str(error))
        return
    if not exists:
        yield await find("database", partial(check_embedded_mongod, data_dir))
        return
    try:
        async with embedded_database(data_dir) as url:
            async for finding in check_deployment_at(settings, url):
                yield finding
    except ConfigurationError as error:
        yield Finding("FAIL", "database", str(error))


async def check_deployment_at(settings: DatabaseSettings, url: str) -> AsyncIterator[Finding]:
    """What is found about the database at `url`."""
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(opened(url, settings.driver))
        except ConfigurationError as error:
            yield Finding("FAIL", "database", str(error))
            return
        location = f"{settings.database} {describe_location(settings, is_new=False)}"
        announce(f"database: {location}")
        connection = await find("database", partial(check_connection, client, location))
        yield connection
        if connection.level == "FAIL":
            return
        found = database(client, settings.database)
        yield await find("version", partial(check_release, client))
        replica_set = await find("replica set", partial(check_kind, client))
        yield replica_set
        rights = await find("permissions", partial(check_rights, found))
        yield rights
        if rights.level != "FAIL":
            yield await find("collections", partial(check_contents, settings, found))
        if "FAIL" not in (replica_set.level, rights.level):
            yield await find("write concern", partial(check_write, found))
            yield await find("oplog", partial(check_oplog, found))
        yield await find("clock", partial(check_clock, client))


async def check_connection(client: Client, location: str) -> str:
    """Whether the database responds, and takes the user and password."""
    with errors_at_start():
        await checks.ping(client)
    return location


async def check_release(client: Client) -> str:
    """Whether the database is new enough."""
    with errors_at_start():
        version = await checks.version(client)
    check_version(version)
    return f"MongoDB {version}"


async def check_kind(client: Client) -> str:
    """Whether the database can confirm writes by a majority."""
    with errors_at_start():
        hello = await checks.hello(client)
    check_confirms(hello)
    if "setName" not in hello:
        return "a sharded cluster"
    members = len(hello["hosts"])
    return f"{hello['setName']}, {members} member{'s' * (members > 1)}"


async def check_rights(found: Database) -> str:
    """Whether the user may do what Sluice does."""
    with errors_at_start():
        missing = await checks.missing_rights(found)
    if missing:
        raise ConfigurationError(
            f"the user in --mongodb-url lacks {', '.join(missing)} on the database {found.name}: "
            "grant it the role readWrite"
        )
    return f"the user may read and write the database {found.name}"


async def check_contents(settings: DatabaseSettings, found: Database) -> str:
    """Whether what the database holds is in the way, or of another version."""
    with errors_at_start(), command_named(settings):
        await check_collections(found)
        await check_layout(found)
    return f"nothing is in the way of layout {LAYOUT}"


async def check_write(found: Database) -> str:
    """Whether a majority confirms a write, by a document that is written and removed."""
    try:
        with errors_at_start(), time_limit(Deadline(WRITE_TIMEOUT_S)):
            await write_once(found)
    except Unavailable:
        raise ConfigurationError(
            f"no majority confirmed a write within {WRITE_TIMEOUT_S:g} s: see with rs.status() that most members of "
            "the replica set run and keep up, and with the log of the database that it takes writes"
        ) from None
    return "a majority confirms writes"


async def check_clock(client: Client) -> str:
    """Whether the clock of this machine is that of the database."""
    with errors_at_start():
        offset = await checks.clock_offset(client)
    away = abs(offset.seconds) - offset.uncertainty_s
    where = "ahead of" if offset.seconds > 0 else "behind"
    text = (
        f"the clock of this machine is {abs(offset.seconds):.1f} s {where} the database's: "
        "let both follow NTP, by chrony or systemd-timesyncd"
    )
    if away >= FAR_CLOCK_OFFSET_S:
        raise ConfigurationError(text)
    if away >= MAX_CLOCK_OFFSET_S:
        raise Concern(text)
    return f"within {abs(offset.seconds) + offset.uncertainty_s:.3f} s of the database's"


async def check_oplog(found: Database) -> str:
    """Whether the database keeps its history for long enough."""
    with errors_at_start():
        oplog = await checks.oplog(found)
        if oplog is None:
            if not await checks.has_history(found, SHORT_HISTORY_H):
                raise Concern(f"the oplog does not reach back {SHORT_HISTORY_H} hours: {LONGER_OPLOG}")
            return f"it reaches back {SHORT_HISTORY_H} hours, or to the first write"
    if oplog.size_mib < SMALL_OPLOG_MIB:
        raise Concern(f"the oplog has {oplog.size_mib:,} MiB: {LONGER_OPLOG}")
    if oplog.is_full and oplog.hours < SHORT_HISTORY_H:
        raise Concern(f"the oplog reaches back {oplog.hours:.1f} hours: {LONGER_OPLOG}")
    return f"{oplog.size_mib:,} MiB, reaches back {oplog.hours:.1f} hours{'' if oplog.is_full else ', and is not full'}"
