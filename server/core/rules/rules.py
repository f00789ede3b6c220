"""What a tenant does with its rules: makes, lists, changes, deletes and tries them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from time import time_ns
from typing import Any
from uuid import UUID

import msgspec

from server.core.deadline import Deadline
from server.core.errors import NotFound, Unavailable
from server.core.events.ids import new_ids
from server.core.read_limits import ReadLimits
from server.core.rules.conditions import evaluate
from server.core.rules.fields import changed_rule, new_rule
from server.core.rules.measure import Measuring
from server.core.rules.model import Evaluation, Rule
from server.core.rules.store import RuleStore
from server.core.rules.windows import last_complete_minute, window_of
from server.core.times import NS_PER_MS, from_milliseconds

TOO_SLOW = (
    "The events of this rule could not be read in time. If they are counted for the first time, a retry goes on with "
    "that: retry after the time in Retry-After"
)

NO_RULE = "This tenant has no rule with this id"

RULE_BYTES = 4_096
"""What a rule takes at most that is listed, without its configuration."""


class Rules:
    """The rules of all tenants. Every method raises Unavailable, and NotFound for an id of another tenant too."""

    def __init__(self, store: RuleStore, measuring: Measuring, limits: ReadLimits) -> None:
        self._store = store
        self._measuring = measuring
        self._limits = limits

    async def create(self, tenant_id: UUID, value: Any, deadline: Deadline) -> Rule:
        """Make the rule that a JSON value describes. Raises InvalidParameter, which names the field, and Conflict."""
        at_ms = time_ns() // NS_PER_MS
        rule_id = UUID(bytes=new_ids(at_ms, 1).binary[0])
        rule = new_rule(rule_id, tenant_id, value, from_milliseconds(at_ms))
        await self._store.insert(rule, deadline)
        return rule

    @asynccontextmanager
    async def of_tenant(self, tenant_id: UUID, deadline: Deadline) -> AsyncIterator[Sequence[Rule]]:
        """All rules of a tenant, oldest first. They count as held inside."""
        async with self._limits.reservation(tenant_id, deadline) as reservation:
            async with self._limits.slot(tenant_id, deadline):
                rules = await self._store.of_tenant(tenant_id, deadline)
            reservation.hold(sum(map(size_of, rules)), is_last=True)
            yield rules

    async def get(self, tenant_id: UUID, rule_id: UUID, deadline: Deadline) -> Rule:
        """One rule."""
        return found(await self._store.find(tenant_id, rule_id, deadline))

    async def change(self, tenant_id: UUID, rule_id: UUID, value: Any, deadline: Deadline) -> Rule:
        """Change the fields of a rule that a JSON object has. Raises InvalidParameter, and Conflict."""
        change = partial(changed_rule, value=value, at=now())
        return found(await self._store.change(tenant_id, rule_id, change, deadline))

    async def delete(self, tenant_id: UUID, rule_id: UUID, deadline: Deadline) -> None:
        """Delete a rule. Its open alert is resolved."""
        if not await self._store.delete(tenant_id, rule_id, deadline):
            raise NotFound(NO_RULE)

    async def evaluate(self, tenant_id: UUID, rule_id: UUID, deadline: Deadline) -> Evaluation:
        """What a rule finds now, in the window that ends at the last complete minute. It changes nothing."""
        rule = await self.get(tenant_id, rule_id, deadline)
        end_ms = last_complete_minute(time_ns() // NS_PER_MS)
        async with self._limits.slot(tenant_id, deadline):
            measured = await self._measuring.measure(tenant_id, [rule], end_ms, deadline)
        if rule.id not in measured:
            raise Unavailable(detail=TOO_SLOW)
        return evaluate(rule, window_of(rule, end_ms), measured[rule.id])


def found(rule: Rule | None) -> Rule:
    """A rule that was looked for. Raises NotFound."""
    if rule is None:
        raise NotFound(NO_RULE)
    return rule


def size_of(rule: Rule) -> int:
    """About how many bytes a rule takes that is listed."""
    return RULE_BYTES + len(msgspec.json.encode(rule.config))


def now() -> datetime:
    """The time of this host, to the millisecond."""
    return from_milliseconds(time_ns() // NS_PER_MS)
