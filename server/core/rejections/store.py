"""The port to where rejections are kept. `storage/rejections.py` implements it."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from server.core.deadline import Deadline
from server.core.rejections.model import Rejection

MAX_KEPT = 1_000
"""Rejections that are kept of a tenant: more than people look through."""

KEPT_MS = 24 * 60 * 60 * 1_000
"""How long a rejection is kept, in milliseconds."""


class RejectionStore(Protocol):
    """Keeps the last MAX_KEPT rejections of each tenant, for KEPT_MS."""

    async def insert(self, rejections: Sequence[Rejection], deadline: Deadline) -> None:
        """Store rejections. One that is stored already, by its id, is no error. Raises Unavailable."""

    async def newest(self, tenant_id: UUID, count: int, deadline: Deadline) -> Sequence[Rejection]:
        """The newest rejections of a tenant, at most `count`, newest first. Raises Unavailable."""
