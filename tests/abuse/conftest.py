"""What no abuse may do: end a worker, or cause an internal error."""

from collections.abc import Iterator

import pytest

from tests.support.harness import Server


@pytest.fixture(scope="module", autouse=True)
def unharmed(server: Server) -> Iterator[None]:
    """After each module the workers are the same, and the log tells of no error."""
    workers = server.worker_pids()
    yield
    assert server.worker_pids() == workers
    lines = server.stderr().splitlines()
    assert not [line for line in lines if " error " in line or "fault" in line or "Traceback" in line], lines
