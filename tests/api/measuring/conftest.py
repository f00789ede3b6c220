"""What measures in the database of the server."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest

from server.core.deadline import Deadline
from server.core.rules.measure import Measurement
from server.core.rules.model import Rule
from storage.client import close, connect, database
from storage.measurements import StoredMeasurements
from tests.support.harness import Server, embedded_url
from tests.support.measuring import END_MS

TIMEOUT_S = 60


class Measurer:
    """Measures in the database."""

    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner()
        self.client = self.runner.run(self._connect(url))
        self.stored = StoredMeasurements(database(self.client, "sluice"))

    async def _connect(self, url: str) -> Any:
        return connect(url, "pymongo")

    def measure(
        self, tenant_id: UUID, rules: Sequence[Rule], end_ms: int = END_MS, timeout_s: float = TIMEOUT_S
    ) -> Mapping[UUID, Measurement]:
        return self.runner.run(self.stored.measure(tenant_id, rules, end_ms, Deadline(timeout_s)))

    def close(self) -> None:
        self.runner.run(close(self.client))
        self.runner.close()


@pytest.fixture(scope="module")
def measurer(server: Server) -> Iterator[Measurer]:
    opened = Measurer(embedded_url(server.data_dir))
    yield opened
    opened.close()
