"""Reads the alerts of a tenant, within the limits of `read_limits.py`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from server.core.alerts.model import Alert
from server.core.alerts.store import AlertFilter, AlertReader
from server.core.deadline import Deadline
from server.core.read_limits import ReadLimits

MAX_ALERT_BYTES = 4_096
"""What one alert takes at most: its message has a sentence, and it names few events."""


class AlertReads:
    """Reads the alerts in `store` for all requests to this worker."""

    def __init__(self, store: AlertReader, limits: ReadLimits) -> None:
        self._store = store
        self._limits = limits

    @asynccontextmanager
    async def page(
        self, tenant_id: UUID, where: AlertFilter, below: UUID | None, count: int, deadline: Deadline
    ) -> AsyncIterator[Sequence[Alert]]:
        """See `AlertReader.page`. The alerts count as held inside."""
        async with self._limits.reservation(tenant_id, deadline) as reservation:
            async with self._limits.slot(tenant_id, deadline):
                found = await self._store.page(tenant_id, where, below, count, deadline)
            reservation.hold(len(found) * MAX_ALERT_BYTES, is_last=True)
            yield found

    async def get(self, tenant_id: UUID, alert_id: UUID, deadline: Deadline) -> Alert:
        """See `AlertReader.get`."""
        async with self._limits.slot(tenant_id, deadline):
            return await self._store.get(tenant_id, alert_id, deadline)
