"""What each error of the driver means for us.

No driver exception leaves `storage`, and no text of one: it may quote a document, an address or a password.

There are three kinds of driver error:
1. Temporary: the same call may succeed a moment later, such as during an election. It becomes Unavailable.
2. The operator's: a setting must change, such as the password in --mongodb-url. At start, it becomes
   ConfigurationError.
3. Any other is a bug. It is re-raised unchanged; the APIs turn it into an internal error, and log its type and place.
"""

from collections.abc import Iterator
from contextlib import contextmanager

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

from server.core.errors import ConfigurationError, Outcome, Unavailable

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


def unavailable_for(error: PyMongoError, outcome: Outcome) -> Unavailable | None:
    """What a temporary error becomes; None for any other.

    `outcome` is what the failed call may leave behind. If no server was reached, the outcome is "not_stored".
    """
    if isinstance(error, ServerSelectionTimeoutError | WaitQueueTimeoutError):
        return Unavailable("not_stored")
    return Unavailable(outcome) if is_temporary(error) else None


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
