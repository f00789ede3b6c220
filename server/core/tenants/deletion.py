"""Deletes a tenant with all its data, so that nothing of it is left in any collection.

Theory of operation. It can be interrupted at any moment, and goes on when it is run again:

1. The tenant is marked as being deleted. From now on it gets no new key, and its name cannot be used.
2. Its keys are revoked. Each request checks its key, so no new one is admitted, on any host.
3. Wait until the requests that were admitted before have ended, and what workers noted of them is saved. All of that
   is removed with the rest.
4. Remove its data from all collections, in batches (`storage/tenant_data.py` is the list of them).
5. Remove the tenant itself. A new tenant of the same name gets another id, and so nothing of the old one.

Two may work on one deletion at the same time: each step may be repeated. So that they do not, whoever works on one says
so every PROCEED_S, and a server goes on with those on which nobody works.

Example: `sluice tenants delete acme` marks acme, revokes its keys, and is killed after 400,000 of 1,000,000 events. A
server sees half a minute later that nobody works on it. The keys were revoked long ago, so it removes the other 600,000
events, the records, the types, the keys, and then the tenant.
"""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic

from server.core.deadline import Deadline
from server.core.jobs.store import JobLease
from server.core.tenants.pace import remove_batch
from server.core.tenants.store import DeletionStore, Tenant

INTERVAL_S = 30.0
"""How often a server looks for deletions on which nobody works."""

PROCEED_S = 2.0
"""How often the store is told that somebody works on a deletion."""

log = logging.getLogger("sluice")


class Deletions:
    """Goes on with the deletions in `store` on which nobody works."""

    def __init__(self, store: DeletionStore) -> None:
        self._store = store

    async def go_on(self, _: JobLease) -> None:
        """Finish all of them. It needs no fencing number, since it may overlap with another. Raises Unavailable."""
        for tenant in await self._store.abandoned(Deadline()):
            log.info("the deletion of tenant %s goes on here", tenant.id)
            await delete(self._store, tenant, lambda _: None)
            log.info("tenant %s is deleted", tenant.id)


async def delete(store: DeletionStore, tenant: Tenant, on_removed: Callable[[int], object]) -> None:
    """Delete a tenant that is marked. Calls `on_removed` with the number of documents of each batch.

    Raises Unavailable.
    """
    left_s = await store.revoke_keys(tenant, Deadline())
    while left_s is not None and left_s > 0:
        await asyncio.sleep(min(left_s, PROCEED_S))
        left_s = await store.proceed(tenant, Deadline())
    removal, told_at = store.data_of(tenant), monotonic()
    while left_s is not None and (removed := await remove_batch(removal)) is not None:
        on_removed(removed)
        if monotonic() - told_at >= PROCEED_S:
            left_s, told_at = await store.proceed(tenant, Deadline()), monotonic()
    if left_s is not None:
        await store.finish(tenant, Deadline())
