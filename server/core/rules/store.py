"""The port to where rules are kept. `storage/rules.py` implements it."""

from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID

from server.core.deadline import Deadline
from server.core.rules.model import Rule

MAX_RULES = 500
"""Rules of a tenant. All of them are listed in one response, and evaluated within one interval."""


class RuleStore(Protocol):
    """Keeps the rules of all tenants. All methods raise Unavailable. What another tenant has is not found."""

    async def insert(self, rule: Rule, deadline: Deadline) -> None:
        """Store a new rule. Raises Conflict if the tenant has one of its name, or has MAX_RULES."""

    async def of_tenant(self, tenant_id: UUID, deadline: Deadline) -> Sequence[Rule]:
        """All rules of a tenant, oldest first."""

    async def find(self, tenant_id: UUID, rule_id: UUID, deadline: Deadline) -> Rule | None:
        """A rule; None if there is none of this id."""

    async def change(
        self, tenant_id: UUID, rule_id: UUID, change: Callable[[Rule], Rule], deadline: Deadline
    ) -> Rule | None:
        """Replace a rule by what `change` makes of it. Returns that; None if there is no rule of this id.

        An evaluation is applied before or after it, but not with the rule as it was. The open alert of a rule that
        becomes disabled is resolved with it. Raises Conflict if the tenant has another rule of the new name, and what
        `change` raises, which may be called several times.
        """

    async def delete(self, tenant_id: UUID, rule_id: UUID, deadline: Deadline) -> bool:
        """Delete a rule, and resolve its open alert. Returns False if there is no rule of this id."""
