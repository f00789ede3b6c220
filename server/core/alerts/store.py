"""The ports to where alerts are kept. `storage/alerts.py` implements them."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from msgspec import Struct

from server.core.alerts.model import Alert
from server.core.deadline import Deadline
from server.core.jobs.store import JobLease
from server.core.rules.model import Evaluation, Rule, Severity

NO_ALERT = "This tenant has no alert with this id"


class AlertFilter(Struct, frozen=True, kw_only=True):
    """Which alerts of a tenant to list. None is any."""

    is_resolved: bool | None = None
    severity: Severity | None = None
    rule_id: UUID | None = None


class AlertReader(Protocol):
    """Where alerts are read. All methods raise Unavailable."""

    async def page(
        self, tenant_id: UUID, where: AlertFilter, below: UUID | None, count: int, deadline: Deadline
    ) -> Sequence[Alert]:
        """Alerts of a tenant that match, at most `count`, newest first: those older than the alert `below`, if any."""

    async def get(self, tenant_id: UUID, alert_id: UUID, deadline: Deadline) -> Alert:
        """One alert of a tenant. Raises NotFound, for another tenant's too."""


class AlertChanges(Protocol):
    """Where alerts are changed by hand. All methods return the alert as it became.

    They may be repeated: the first time counts. They raise Unavailable, and NotFound, for another tenant's too.
    """

    async def acknowledge(self, tenant_id: UUID, alert_id: UUID, deadline: Deadline) -> Alert:
        """Note that somebody has seen an alert. It stays open, if it is."""

    async def resolve(self, tenant_id: UUID, alert_id: UUID, deadline: Deadline) -> Alert:
        """Resolve an alert. In the same transaction, its webhooks get to know."""


class Result(NamedTuple):
    """The evaluation of a rule at a due time."""

    due_ms: int
    evaluation: Evaluation


class EvaluationStore(Protocol):
    """Where rules and the results of their evaluation are kept. All methods raise Unavailable."""

    async def take_over(self, deadline: Deadline) -> None:
        """End what a holder of the lease has left open that is frozen, so that it holds up nobody."""

    async def tenants_due(self, until_ms: int, deadline: Deadline) -> Sequence[UUID]:
        """The tenants of enabled rules that are not evaluated up to `until_ms`."""

    async def due(self, tenant_id: UUID, until_ms: int, deadline: Deadline) -> Sequence[Rule]:
        """The enabled rules of a tenant that are not evaluated up to `until_ms`, but those that cannot be decoded."""

    async def apply(self, lease: JobLease, rule: Rule, results: Sequence[Result], deadline: Deadline) -> bool:
        """Store the next results of a rule, and what follows from them for its alert and webhooks, in one transaction.

        Returns False, and does nothing, if the rule is no longer as it was when it was read, or if a later holder of
        the lease has written. So a result is applied once, and in its turn, however often this is called.
        """
