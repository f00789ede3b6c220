"""What no abuse may do: end a worker, or make the server speak of a fault."""

from collections.abc import Iterator

import pytest

from tests.harness import Server


@pytest.fixture(scope="module", autouse=True)
def unharmed(server: Server) -> Iterator[None]:
    """After each module the server is as it was, and has no fault to report."""
    workers = server.worker_pids()
    yield
    assert server.worker_pids() == workers
    lines = server.stderr().splitlines()
    assert not [line for line in lines if " error " in line or "fault" in line or "Traceback" in line], lines
