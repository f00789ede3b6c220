"""What each error of the driver means for us.

No driver exception leaves `storage`, and no text of one: it may quote a document, an address or a password.

There are three kinds of driver error:
1. Temporary: the same call may succeed a moment later, such as during an election. It is repeated while time is left.
2. Not now: all others that the database or the driver report. Time or the operator can change what they say: a full
   disk, a quota, a password, a lost role. So any code of MongoDB is of this kind, also one that would be a bug of ours
   ("command not found"): it does not say what earlier commands of the request have stored, and an internal error must
   not leave that unclear. It is not repeated within a request.
3. A bug: calls that the driver refuses to send. They are re-raised unchanged; the APIs turn them into an internal
   error, and log its type and place.

Kinds 1 and 2 become Unavailable. MongoDB's code is logged, since clients are told nothing of it.
"""

import logging
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConnectionFailure,
    ExecutionTimeout,
    InvalidName,
    InvalidOperation,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
    WTimeoutError,
)

NOT_ON_A_MAJORITY = 134
"""ReadConcernMajorityNotAvailableYet."""

TEMPORARY_CODES = frozenset(
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
        NOT_ON_A_MAJORITY,
        189,  # PrimarySteppedDown
        202,  # NetworkInterfaceExceededTimeLimit
        262,  # ExceededTimeLimit
        388,  # TransactionTooLargeForCache: the cache holds too much that is not on disk yet
        10058,  # LegacyNotPrimary
        10107,  # NotWritablePrimary
        11600,  # InterruptedAtShutdown
        11602,  # InterruptedDueToReplStateChange
        13435,  # NotPrimaryNoSecondaryOk
        13436,  # NotPrimaryOrSecondary
    }
)
"""MongoDB's codes of temporary errors."""

BUGS = (InvalidOperation, InvalidName)
"""What the driver raises of calls that cannot be right, whatever the state of the database."""

UNAUTHORIZED, AUTHENTICATION_FAILED = 13, 18

OPERATOR_ERRORS = {
    UNAUTHORIZED: "the user in --mongodb-url may not use this database: grant it the role readWrite",
    AUTHENTICATION_FAILED: "the database refuses the user or password in --mongodb-url",
    13297: "--database differs from an existing one in capitals only, which MongoDB refuses",  # DatabaseDiffersCase
}
"""MongoDB's codes of errors that only the operator can fix, and how."""

LOG_INTERVAL_S = 10.0
"""How often a code is logged at most. A busy server has thousands of failing calls a second."""

log = logging.getLogger("sluice")


class Failure(NamedTuple):
    """What a driver error means for a request."""

    is_temporary: bool
    """Whether the same call may succeed while the request waits."""
    was_sent: bool
    """Whether the database may have carried out the call."""


def failure_of(error: PyMongoError) -> Failure | None:
    """What an error means; None if it is a bug."""
    codes = codes_of(error)
    if isinstance(error, BUGS):
        return None
    if isinstance(error, ServerSelectionTimeoutError | WaitQueueTimeoutError):
        return Failure(is_temporary=False, was_sent=False)
    # The database checks the user before it does anything.
    is_refused_user = bool(codes) and codes <= {UNAUTHORIZED, AUTHENTICATION_FAILED}
    return Failure(is_temporary(error, codes), was_sent=not is_refused_user or isinstance(error, WriteConcernError))


def logged_failure_of(error: PyMongoError) -> Failure | None:
    """The same, with MongoDB's codes in the log."""
    for code in codes_of(error):
        code_log.add(code)
    return failure_of(error)


def is_temporary(error: PyMongoError, codes: set[int]) -> bool:
    """Whether the same call may succeed a moment later."""
    match error:
        case ConnectionFailure() | ExecutionTimeout() | WTimeoutError():
            return True
        case OperationFailure() if codes:
            return codes <= TEMPORARY_CODES or error.has_error_label("RetryableWriteError")
    return error.timeout


def codes_of(error: PyMongoError) -> set[int]:
    """MongoDB's codes in an error, both of single writes and of the write concern. A lost connection has none."""
    if isinstance(error, BulkWriteError):
        details = error.details or {}
        return {int(item["code"]) for item in [*details.get("writeErrors", []), *details.get("writeConcernErrors", [])]}
    if isinstance(error, AutoReconnect):  # of which "not primary" is one
        details = error.details if isinstance(error.details, dict) else {}
        return {int(details["code"])} if "code" in details else set()
    if isinstance(error, OperationFailure) and error.code is not None:
        return {error.code}
    return set()


class CodeLog:
    """Logs MongoDB's codes: each at once, and then at most every LOG_INTERVAL_S with how often it came meanwhile."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._logged_at: dict[int, float] = {}
        self._since: dict[int, int] = {}

    def add(self, code: int) -> None:
        """Count one more error with this code, and log it if it is time."""
        self._since[code] = self._since.get(code, 0) + 1
        if self._clock() - self._logged_at.get(code, float("-inf")) < LOG_INTERVAL_S:
            return
        meaning = OPERATOR_ERRORS.get(code, "the database cannot carry out what it is asked for")
        log.warning("%s (MongoDB code %d, %d times since the last such line)", meaning, code, self._since.pop(code))
        self._logged_at[code] = self._clock()


code_log = CodeLog()
"""The log of this process."""
