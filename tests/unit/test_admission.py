"""Admission: which secret is of which key while keys are rotated, with a store that is a dictionary."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from uuid import UUID

import pytest

from server.core.access.admission import Admission
from server.core.access.keys import Credentials, Key, digest
from server.core.access.rate_limit import LeaseRequest, RateWindow
from server.core.access.store import FoundKey
from server.core.deadline import Deadline
from server.core.errors import Unauthenticated

OLD, NEW = "slc_old", "slc_new"

KEY = Key(
    id="1",
    tenant="acme",
    tenant_id=UUID(int=1),
    name="",
    scopes=("events:write",),
    allowed_domains=(),
    rate_limit=100,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)


class Store:
    """One key whose secrets are `secrets`, the current one first. It grants each request that waits its permit."""

    def __init__(self, *secrets: str) -> None:
        self.secrets = secrets
        self.permits = 0

    async def find(self, digests: Sequence[bytes], _deadline: Deadline) -> dict[bytes, Key]:
        return {digest(secret): KEY for secret in self.secrets if digest(secret) in digests}

    async def lease(self, requests: Sequence[LeaseRequest], _deadline: Deadline) -> dict[str, FoundKey]:
        (request,) = requests
        self.permits += request.waiting
        window = RateWindow(granted=request.waiting, left=50, resets_s=60, leased_elsewhere=False)
        return {KEY.id: FoundKey(KEY, digest(self.secrets[0]), window)}


async def admit(admission: Admission, secret: str) -> None:
    await admission.admit(Credentials(secret), "events:write", Deadline())


async def rotated(overlap: bool) -> tuple[Store, Admission]:
    """A key that was used, and then rotated."""
    store = Store(OLD)
    admission = Admission(store)
    await admit(admission, OLD)
    store.secrets = (NEW, OLD) if overlap else (NEW,)
    return store, admission


def test_both_secrets_share_the_permits_of_their_key() -> None:
    async def use() -> int:
        store, admission = await rotated(overlap=True)
        for secret in (OLD, NEW, OLD, NEW):
            await admit(admission, secret)
        return store.permits

    assert asyncio.run(use()) == 5


def test_a_secret_that_stopped_takes_one_permit_at_most() -> None:
    """The first request after the end takes it together with the read. The worker may return it later."""

    async def use() -> int:
        store, admission = await rotated(overlap=False)
        for secret in (OLD, OLD, NEW, OLD, OLD, OLD):
            with pytest.raises(Unauthenticated) if secret is OLD else nullcontext():
                await admit(admission, secret)
        return store.permits

    assert asyncio.run(use()) == 2
