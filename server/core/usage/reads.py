"""Reads the usage of a tenant, within the limits of `read_limits.py`."""

from collections.abc import Mapping
from uuid import UUID

from server.core.deadline import Deadline
from server.core.read_limits import ReadLimits
from server.core.usage.model import Counts, Span
from server.core.usage.store import UsageStore


class UsageReads:
    """Reads the usage in `store` for all requests to this worker."""

    def __init__(self, store: UsageStore, limits: ReadLimits) -> None:
        self._store = store
        self._limits = limits

    async def find(self, tenant_id: UUID, span: Span, deadline: Deadline) -> Mapping[int, Counts]:
        """What was counted of a tenant, by the start of the step in milliseconds since 1970. Raises Unavailable."""
        async with (
            self._limits.reservation(tenant_id, deadline),
            self._limits.slot(tenant_id, deadline),
        ):
            return await self._store.find(tenant_id, span, deadline)
