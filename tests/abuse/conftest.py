"""What no abuse may do: end a worker, or cause an internal error."""

from collections.abc import Iterator

import pytest

from tests.support.harness import Server

LIBRARY_GAVE_UP = "UnicodeDecodeError at aio/server.pyx.pxi"
"""What grpc.aio logs at a call whose path is not UTF-8. Sluice listens again after it."""


ERROR_WORDS = (" error ", "internal error", "fault", "Traceback")
"""A line of the log with one of them tells of an error. Warnings may hold the word "error"."""


@pytest.fixture(scope="module", autouse=True)
def unharmed(server: Server) -> Iterator[None]:
    """After each module the workers are the same, and the log tells of no error."""
    workers = server.worker_pids()
    yield
    assert server.worker_pids() == workers
    lines = [line for line in server.stderr().splitlines() if LIBRARY_GAVE_UP not in line]
    assert not [line for line in lines if any(word in line for word in ERROR_WORDS)], lines
