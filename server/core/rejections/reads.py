"""Reads the rejections of a tenant, within the limits of `read_limits.py`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from server.core.deadline import Deadline
from server.core.read_limits import ReadLimits
from server.core.rejections.model import Rejection
from server.core.rejections.store import RejectionStore

MAX_REJECTION_BYTES = 4_096
"""What one rejection takes at most."""


class RejectionReads:
    """Reads the rejections in `store` for all requests to this worker."""

    def __init__(self, store: RejectionStore, limits: ReadLimits) -> None:
        self._store = store
        self._limits = limits

    @asynccontextmanager
    async def newest(self, tenant_id: UUID, count: int, deadline: Deadline) -> AsyncIterator[Sequence[Rejection]]:
        """The newest rejections of a tenant, at most `count`, newest first. They count as held inside.

        Raises Unavailable.
        """
        async with self._limits.reservation(tenant_id, deadline) as reservation:
            async with self._limits.slot(tenant_id, deadline):
                found = await self._store.newest(tenant_id, count, deadline)
            reservation.hold(len(found) * MAX_REJECTION_BYTES, is_last=True)
            yield found
