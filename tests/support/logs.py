"""What a server's log must not hold: words that tell of an internal error."""

import re

from tests.support.harness import Server

ERROR_WORDS = ("internal error", "fault", "exception", "error", "traceback")
"""In lower case. A log that holds one of them tells of something that went wrong inside the server."""


def tells_of_an_error(text: str) -> bool:
    """Whether a log, or a line of it, tells of an error."""
    return any(word in text.lower() for word in ERROR_WORDS)


def without_rejections(log: str) -> list[str]:
    """The lines of a log but for those that count rejected requests."""
    return [line for line in log.splitlines() if " info    rejected " not in line]


def lines_after_database(log: str) -> list[str]:
    """The lines of a log but for the one that names the database."""
    return [line for line in log.splitlines() if not re.search(r"(^|info +)database: ", line)]


def assert_no_internal_errors(server: Server, since: int = 0) -> None:
    """Nothing went wrong inside the server, as far as its log tells: all, or what was added to a log of `since` bytes.

    Other tests that share the server may have it log errors, and so may gRPC itself when a deadline passes.
    """
    log = server.stderr(since)
    assert not tells_of_an_error(log), log
