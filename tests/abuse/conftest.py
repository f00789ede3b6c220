"""What no abuse may do: end a worker, or make the server speak of a fault."""

from collections.abc import Iterator

import pytest

from tests.support.harness import Server

LIBRARY_GAVE_UP = "UnicodeDecodeError at aio/server.pyx.pxi"
"""grpc.aio at a call whose path is no UTF-8, after which Sluice listens again."""


@pytest.fixture(scope="module", autouse=True)
def unharmed(server: Server) -> Iterator[None]:
    """After each module the server is as it was, and has no fault to report."""
    workers = server.worker_pids()
    yield
    assert server.worker_pids() == workers
    lines = [line for line in server.stderr().splitlines() if LIBRARY_GAVE_UP not in line]
    assert not [line for line in lines if " error " in line or "fault" in line or "Traceback" in line], lines
