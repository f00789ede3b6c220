"""Translates the driver's errors into ours, retries calls, and limits their time.

No driver exception leaves `storage`, and no text of one: it may quote a document, an address or a password.

There are three kinds of driver error:
1. Temporary: the same call may succeed a moment later, such as during an election. It becomes Unavailable.
2. The operator's: a setting must change, such as the password in --mongodb-url. At start, it becomes
   ConfigurationError.
3. Any other is a bug. It is re-raised unchanged; the APIs turn it into an internal error, and log its type and place.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pymongo
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WTimeoutError,
)
from pymongo.errors import (
    ConfigurationError as DriverConfigurationError,
)

from server.core.deadline import Deadline
from server.core.errors import ConfigurationError, Outcome, Unavailable

Result = TypeVar("Result")

RETRY_PAUSE_S = 0.05
"""The pause between two attempts: short beside an election, which takes a second or more."""

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
"""MongoDB's codes of temporary errors."""

OPERATOR_ERRORS = {
    13: "the user in --mongodb-url may not use this database: grant it the role readWrite",  # Unauthorized
    18: "the database refuses the user or password in --mongodb-url",  # AuthenticationFailed
    13297: "--database differs from an existing one in capitals only, which MongoDB refuses",  # DatabaseDiffersCase
}
"""MongoDB's codes of errors that only the operator can fix, and how."""


@contextmanager
def time_limit(deadline: Deadline) -> Iterator[None]:
    """End every driver call inside when `deadline` passes, including its own retries and its wait for a primary.

    Raises Unavailable if no time is left.
    """
    seconds = deadline.remaining()
    if seconds <= 0:  # the driver would take it for "no limit"
        raise Unavailable("not_stored")
    with pymongo.timeout(seconds):
        yield


@contextmanager
def driver_errors_as_unavailable(outcome: Outcome = "not_stored") -> Iterator[None]:
    """Turn temporary driver errors inside into Unavailable. All others are re-raised unchanged.

    `outcome` is what a call leaves behind if it fails halfway: "unknown" for a write. If no server was reached, the
    outcome is "not_stored" in any case.
    """
    try:
        yield
    except (ServerSelectionTimeoutError, WaitQueueTimeoutError):
        raise Unavailable("not_stored") from None
    except PyMongoError as error:
        if not is_temporary(error):
            raise
        raise Unavailable(outcome) from None


def is_temporary(error: PyMongoError) -> bool:
    """Whether the same call may succeed a moment later."""
    match error:
        case ConnectionFailure() | ExecutionTimeout() | WTimeoutError():
            return True
        case BulkWriteError():
            return error_codes(error) <= UNAVAILABLE_CODES
        case OperationFailure():
            return error.code in UNAVAILABLE_CODES or error.has_error_label("RetryableWriteError")
    return error.timeout


def error_codes(error: BulkWriteError) -> set[int]:
    """MongoDB's codes in `error`, both of single writes and of the write concern."""
    details = error.details or {}
    return {int(item["code"]) for item in [*details.get("writeErrors", []), *details.get("writeConcernErrors", [])]}


@contextmanager
def operator_errors_as_configuration() -> Iterator[None]:
    """Turn driver errors inside that only the operator can fix into ConfigurationError."""
    try:
        yield
    except OperationFailure as error:
        if error.code not in OPERATOR_ERRORS:
            raise
        raise ConfigurationError(OPERATOR_ERRORS[error.code]) from None
    except DriverConfigurationError:
        raise ConfigurationError("--mongodb-url names a cluster (mongodb+srv) that DNS does not know") from None


async def retry_event_write(write: Callable[[], Awaitable[Result]], deadline: Deadline) -> tuple[Result, bool]:
    """Call `write`, which stores events, until it succeeds. It must write the same each time.

    It is called again after temporary errors while time is left, since elections are short. Returns its result, and
    whether an earlier attempt may have stored events. Raises Unavailable, at once if no server can be reached.
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


async def retry_without_events(call: Callable[[], Awaitable[Result]], deadline: Deadline) -> Result:
    """Call `call`, which reads or writes but stores no event, until it succeeds, as `retry_event_write` does.

    Returns its result. Raises Unavailable with the outcome "not_stored", even if the call itself was carried out.
    """
    try:
        result, _ = await retry_event_write(call, deadline)
    except Unavailable:
        raise Unavailable("not_stored") from None
    return result
