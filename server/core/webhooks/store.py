"""The ports to where webhooks and deliveries are kept: `storage/webhooks.py` and `storage/deliveries.py`.

A transition of an alert becomes deliveries in the transaction that changes the alert. So what is delivered is what
happened, whatever dies. `storage/deliveries.py:enqueue` does it. It is no part of the ports: transactions are the
storage's own.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID

from server.core.deadline import Deadline
from server.core.webhooks.model import Attempt, Delivery, Webhook


class WebhookStore(Protocol):
    """Keeps the webhooks of all tenants. Every method raises Unavailable."""

    async def insert(self, webhook: Webhook, deadline: Deadline) -> None:
        """Store a new webhook. Raises Conflict if the tenant has one of its name, or MAX_WEBHOOKS."""

    async def of_tenant(self, tenant_id: UUID, deadline: Deadline) -> Sequence[Webhook]:
        """The webhooks of a tenant, oldest first."""

    async def find(self, tenant_id: UUID, webhook_id: UUID, deadline: Deadline) -> Webhook | None:
        """One of them."""

    async def rotate(self, tenant_id: UUID, webhook_id: UUID, secret: bytes, deadline: Deadline) -> Webhook | None:
        """Give a webhook a new secret, and let the one before sign for OVERLAP too. Returns it; None if there is none.

        A secret that it has already is not given again, so the call may be repeated.
        """

    async def delete(self, tenant_id: UUID, webhook_id: UUID, deadline: Deadline) -> bool:
        """Delete a webhook and its deliveries. Returns False if there is none."""


class DeliveryStore(Protocol):
    """Keeps the deliveries of one tenant after the other. Every method raises Unavailable."""

    async def insert(self, delivery: Delivery, deadline: Deadline) -> Delivery:
        """Store a delivery, unless it is stored already. Returns it as it is stored."""

    async def newest(self, tenant_id: UUID, webhook_id: UUID, count: int, deadline: Deadline) -> Sequence[Delivery]:
        """The newest deliveries to a webhook, at most `count`, newest first."""

    async def resend(self, tenant_id: UUID, webhook_id: UUID, delivery_id: UUID, deadline: Deadline) -> Delivery | None:
        """Make a delivery due now, with all its attempts before it. Returns it; None if there is none."""


class Outbox(Protocol):
    """The deliveries of all tenants that are due. Every method raises Unavailable."""

    async def due(
        self, count: int, busy: Collection[UUID], in_flight: Collection[UUID], deadline: Deadline
    ) -> Sequence[Delivery]:
        """Deliveries that are due, at most `count`, those that are due for longest first. They have no attempts.

        There are none to the webhooks `busy`, and none of the deliveries `in_flight`. One that cannot be decoded is
        left out, and is due again later.
        """

    async def webhooks(self, deliveries: Sequence[Delivery], deadline: Deadline) -> Mapping[UUID, Webhook | None]:
        """The webhooks of deliveries by id, as they are now. Those that were deleted are missing.

        None stands for a webhook that cannot be decoded.
        """

    async def wait_for_earlier(self, delivery: Delivery, deadline: Deadline) -> bool:
        """Postpone a delivery until after an earlier one of its subject, if one is pending. Returns whether it was."""

    async def delivered(self, delivery: Delivery, attempt: Attempt, deadline: Deadline) -> None:
        """Note that an attempt succeeded. If it was a test, its webhook is enabled again."""

    async def postpone(self, delivery: Delivery, attempt: Attempt, delay_s: float, deadline: Deadline) -> None:
        """Note that an attempt failed, and that the next one is due in `delay_s`."""

    async def failed(self, delivery: Delivery, attempt: Attempt, *, gone: bool, deadline: Deadline) -> None:
        """Note that an attempt failed, and that it was the last one. `gone` disables the webhook."""

    async def drop(self, delivery: Delivery, deadline: Deadline) -> None:
        """Remove a delivery whose webhook was deleted."""
