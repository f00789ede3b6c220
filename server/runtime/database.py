"""Opens the database that the settings name: the one at a URL, or the embedded one.

It checks the database and makes its indexes first, so that a wrong setting is one clear line at the start.
"""

import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from server.core.errors import ConfigurationError
from server.runtime.data_directory import check_owner, require_database
from server.runtime.logs import announce
from server.settings import DEFAULT_DATA_DIR, DEFAULT_DATABASE, DatabaseSettings, address
from storage import embedded
from storage.client import database, hosts_of, opened
from storage.commands import Database, driver_errors_as_unavailable
from storage.layout import OldLayout
from storage.start import check_at_start, prepare_at_start

Prepare = Callable[[Database], Awaitable[None]]
"""Makes a database ready for use. Raises ConfigurationError if it cannot be."""

MONGODB_DATABASES = {"admin", "config", "local"}
"""The databases that MongoDB makes itself."""


@asynccontextmanager
async def command_database(
    settings: DatabaseSettings, may_create: bool = False, prepare: Prepare = prepare_at_start
) -> AsyncIterator[Database]:
    """The database for a short-lived command. If the embedded one does not run, it runs as long as the command.

    Raises what `open_database` does, and ConfigurationError if there is none, unless the command `may_create` it.
    """
    if settings.mongodb_url is None:
        data_dir = Path(settings.data_dir)
        check_owner(data_dir)
        if not may_create:
            require_database(data_dir)
        async with embedded.embedded_database(data_dir) as url, open_database(settings, url, prepare) as found:
            yield found
    else:
        async with open_database(settings, settings.mongodb_url, prepare) as found:
            yield found


@asynccontextmanager
async def open_database(
    settings: DatabaseSettings, url: str, prepare: Prepare = prepare_at_start
) -> AsyncIterator[Database]:
    """The database at `url`, checked and prepared. Says on stderr which one it is.

    Raises ConfigurationError if it cannot keep Sluice's promises, and Unavailable if it cannot be reached.
    """
    async with opened(url, settings.driver) as client:
        version = await check_at_start(client)
        found = database(client, settings.database)
        location = describe_location(settings, is_new=await is_new_embedded(settings, found))
        announce(f"database: {settings.database} {location} (MongoDB {version})")
        with command_named(settings):
            await prepare(found)
        yield found


@contextmanager
def command_named(settings: DatabaseSettings) -> Iterator[None]:
    """Add to the advice to run `sluice migrate` the options with which it finds this database."""
    try:
        yield
    except OldLayout as error:
        options = []
        if settings.mongodb_url is not None:
            options.append("the same --mongodb-url")  # which may hold a password
        elif settings.data_dir != DEFAULT_DATA_DIR:
            options.append(f"--data-dir {shlex.quote(settings.data_dir)}")
        if settings.database != DEFAULT_DATABASE:
            options.append(f"--database {settings.database}")
        raise ConfigurationError(f"{error} with {' and '.join(options)}" if options else str(error)) from None


async def is_new_embedded(settings: DatabaseSettings, found: Database) -> bool:
    """Whether this is the embedded database and holds nothing, so that it was made just now. Raises Unavailable."""
    if settings.mongodb_url is not None:
        return False
    with driver_errors_as_unavailable():
        return set(await found.client.list_database_names()) <= MONGODB_DATABASES


def describe_location(settings: DatabaseSettings, is_new: bool) -> str:
    """Where the database is, for people: without the user and password that a URL may have."""
    if settings.mongodb_url is not None:
        hosts = hosts_of(settings.mongodb_url)
        return "at " + ",".join(host if port is None else address(host, port) for host, port in hosts)
    path = Path(settings.data_dir).absolute()
    return f"new database made in {path}" if is_new else f"embedded in {path}"
