"""What no abuse may do: end a worker, or cause an internal error."""

from collections.abc import Iterator

import pytest

from tests.support.harness import Server


@pytest.fixture(autouse=True)
def unharmed(server: Server) -> Iterator[None]:
    """After each test the workers are the same, and what was logged meanwhile tells of no error."""
    workers, before = server.worker_pids(), server.log_size()
    yield
    assert server.worker_pids() == workers
    lines = server.stderr(before).splitlines()
    assert not [line for line in lines if " error " in line or "fault" in line or "Traceback" in line], lines
