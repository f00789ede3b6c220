"""Opens the database that the settings name: the one at a URL, or the embedded one.

It checks the database and makes its indexes first, so that a wrong setting is one clear line at the start.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from server.settings import DatabaseSettings
from storage import embedded
from storage.client import check_deployment, close, connect, database
from storage.commands import Database
from storage.failures import operator_errors_as_configuration
from storage.indexes import ensure_indexes


@asynccontextmanager
async def command_database(settings: DatabaseSettings) -> AsyncIterator[Database]:
    """The database for a short-lived command. If the embedded one does not run, it runs as long as the command."""
    if settings.mongodb_url is None:
        async with embedded.embedded_database(Path(settings.data_dir)) as url, open_database(settings, url) as found:
            yield found
    else:
        async with open_database(settings, settings.mongodb_url) as found:
            yield found


@asynccontextmanager
async def open_database(settings: DatabaseSettings, url: str) -> AsyncIterator[Database]:
    """The database at `url`, checked and with its indexes. Prints to stderr which one it is.

    Raises ConfigurationError if it cannot keep Sluice's promises, and Unavailable if it cannot be reached.
    """
    client = connect(url, settings.driver)
    try:
        with operator_errors_as_configuration():
            version = await check_deployment(client)
            location = describe_location(settings)
            print(f"database: {settings.database} {location} (MongoDB {version})", file=sys.stderr)  # noqa: T201
            found = database(client, settings.database)
            await ensure_indexes(found)
        yield found
    finally:
        await close(client)


def describe_location(settings: DatabaseSettings) -> str:
    """Where the database is, for people: without the user and password that a URL may have."""
    if settings.mongodb_url is None:
        return f"embedded in {settings.data_dir}"
    return f"at {urlsplit(settings.mongodb_url).netloc.rpartition('@')[2]}"
