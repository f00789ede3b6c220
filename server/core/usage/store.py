"""The port to where usage is kept. `storage/usage.py` implements it."""

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

from server.core.deadline import Deadline
from server.core.usage.model import Counts, Span, UsageCell


class UsageStore(Protocol):
    """Keeps cells of usage as long as KEPT_MS says."""

    async def save(self, cells: Sequence[UsageCell], deadline: Deadline) -> None:
        """Store what cells hold now, in the place of what they held before. Raises Unavailable."""

    async def find(self, tenant_id: UUID, span: Span, deadline: Deadline) -> Mapping[int, Counts]:
        """What all workers counted of a tenant, by the start of the step in ms. Raises Unavailable."""
