"""Checks a database at the start of a process, so that what is wrong is one clear line, and in time.

Later, the same errors are temporary for a client: the operator may fix them while the server runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pymongo.errors import ConfigurationError as DriverConfigurationError
from pymongo.errors import OperationFailure, PyMongoError

from server.core.deadline import Deadline
from server.core.errors import ConfigurationError, Unavailable
from storage.client import Client, check_deployment
from storage.commands import Database, time_limit
from storage.failures import OPERATOR_ERRORS, failure_of
from storage.indexes import check_collections, ensure_indexes
from storage.layout import check_layout, ensure_layout
from storage.probe import write_once
from storage.views import ensure_views

CHECK_TIMEOUT_S = 5.0
"""How long the deployment may take to say what it is, which includes the wait for a primary."""

WRITE_TIMEOUT_S = 4.0
"""How long the first write may take. Without a majority it takes all of it. With the start of Python and the calls
before it, the operator knows in less than 10 s."""


async def check_at_start(client: Client) -> str:
    """Check that the deployment can keep our promises. Returns its version.

    Raises ConfigurationError if it cannot, and Unavailable if it cannot be reached.
    """
    with errors_at_start(), time_limit(Deadline(CHECK_TIMEOUT_S)):
        return await check_deployment(client)


async def check_writable(database: Database) -> None:
    """Check that the database takes writes into usual collections.

    Raises ConfigurationError if what it has or whom it admits is in the way. Raises Unavailable if it takes no writes.
    """
    with errors_at_start(), time_limit(Deadline(WRITE_TIMEOUT_S)):
        await check_collections(database)
        await write_once(database)


async def prepare_at_start(database: Database) -> None:
    """Check that the database takes writes, and create its collection of events and all indexes.

    Raises ConfigurationError if what the database has is in the way, also if its layout is another. Raises Unavailable
    if it takes no writes.
    """
    await check_writable(database)
    with errors_at_start():
        with time_limit(Deadline(WRITE_TIMEOUT_S)):
            await check_layout(database)
        await ensure_indexes(database)
        await ensure_layout(database)
        await ensure_views(database)


@contextmanager
def errors_at_start() -> Iterator[None]:
    """Turn driver errors inside into ConfigurationError if only the operator can fix them, else into Unavailable."""
    try:
        yield
    except DriverConfigurationError:
        raise ConfigurationError("--mongodb-url names a cluster (mongodb+srv) that DNS does not know") from None
    except PyMongoError as error:
        if isinstance(error, OperationFailure) and error.code in OPERATOR_ERRORS:
            raise ConfigurationError(OPERATOR_ERRORS[error.code]) from None
        if failure_of(error) is None:
            raise
        raise Unavailable from None
