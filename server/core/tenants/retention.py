"""Retention: events that are older than the days of their tenant are removed in the background.

Theory of operation. One worker of all hosts looks every INTERVAL_S which events are due, and removes them in batches.
Tenants take turns, batch by batch, so one with millions of events delays no other. Before each round, the policies are
read again, so a change counts from the next batch on.

A batch and its tenant's policy are one transaction. So once a change is confirmed, no event is removed by the policy
before, also not by a worker that was frozen in between. Each batch also carries the fencing number of the lease
(`server/core/jobs/store.py`).

When an event was received follows from its id. It makes no difference when its data says it happened: an event that
was imported yesterday is a day old.

Example: tenant A keeps 30 days and has 1,000,000 events that are older, and B keeps 7 days and has 500. The first round
removes 1,000 events of A and the 500 of B. The second removes 1,000 of A, and finds that B has nothing left. The other
rounds are A's alone. An operator sets A's days to 60: the next round has the new policy, and finds what it leaves.

Idempotency records stay. A retry that comes after its events were removed stores them again, with the ids and the
time of receipt that they had, and the next look removes them again. So no event ever comes back as a new one.
"""

from time import monotonic
from uuid import UUID

from server.core.deadline import Deadline
from server.core.jobs.store import JobLease
from server.core.tenants.pace import remove_batch
from server.core.tenants.store import Removal, RetentionStore

INTERVAL_S = 30.0
"""How often to look for events that are due. What an operator sets must take effect within 2 minutes, and if the worker
that looks is killed, another takes over after up to 18 s."""


Setting = tuple[UUID, int]
"""A tenant, and after how many days its events are removed."""


class Retention:
    """Removes what is due from `store`."""

    def __init__(self, store: RetentionStore) -> None:
        self._store = store

    async def remove_due(self, lease: JobLease) -> None:
        """Remove all that is due. A tenant that had nothing left is looked at again meanwhile. Raises Unavailable."""
        removals: dict[Setting, Removal] = {}
        look_at: dict[Setting, float] = {}
        while True:
            policies = {(policy.tenant_id, policy.days): policy for policy in await self._store.policies(Deadline())}
            turn = [setting for setting in policies if look_at.get(setting, 0.0) <= monotonic()]
            if not turn:
                return
            for setting in turn:
                if setting not in removals:
                    removals[setting] = self._store.due(policies[setting], lease)
                if await remove_batch(removals[setting]) is None:
                    del removals[setting]
                    look_at[setting] = monotonic() + INTERVAL_S
