"""What a tenant does with its webhooks: makes, lists, tests, rotates and deletes them, and lists deliveries."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import SplitResult, urlsplit
from uuid import UUID, uuid4

from msgspec import Meta, Struct

from server.core.alerts.model import AlertEvent
from server.core.deadline import Deadline
from server.core.errors import InvalidParameter, NotFound
from server.core.read_limits import ReadLimits
from server.core.texts import check_text
from server.core.webhooks.addresses import Guard, is_address, is_name
from server.core.webhooks.calls import Resolver
from server.core.webhooks.messages import delivery_of_test
from server.core.webhooks.model import MAX_NAME_CHARS, MAX_URL_CHARS, Delivery, Format, Secrets, Webhook
from server.core.webhooks.signatures import new_secret
from server.core.webhooks.store import DeliveryStore, WebhookStore

NO_WEBHOOK = "This tenant has no webhook with this id"
NO_DELIVERY = "This webhook has no delivery with this id: deliveries are kept for a week"

URL_FORM = (
    "url: must be http:// or https:// with a host, without a user, a password or a fragment. "
    "Encode other characters than those of ASCII, and names as xn--"
)
NOT_PUBLIC = (
    "url: its host must have public addresses only, written in the usual form. "
    "The operator can allow other addresses by --webhook-allow"
)
NO_ADDRESS = "url: its host has no address: no name server knows this name. Check how it is written"


class WebhookFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tenant says of a new webhook."""

    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
    url: Annotated[str, Meta(min_length=1, max_length=MAX_URL_CHARS)]
    events: Annotated[tuple[AlertEvent, ...], Meta(min_length=1)] = ("alert.opened", "alert.resolved")
    format: Format = "standard"


class Webhooks:
    """The webhooks of all tenants. Every method raises Unavailable, and NotFound for an id of another tenant too."""

    def __init__(
        self, store: WebhookStore, deliveries: DeliveryStore, resolver: Resolver, guard: Guard, limits: ReadLimits
    ) -> None:
        self._store = store
        self._deliveries = deliveries
        self._resolver = resolver
        self._guard = guard
        self._limits = limits

    async def create(self, tenant_id: UUID, fields: WebhookFields, deadline: Deadline) -> Webhook:
        """Make a webhook. Raises InvalidParameter, which names the field, and Conflict."""
        check_text(fields.name, "name")
        await self._check_host(host_of(fields.url))
        webhook = Webhook(
            id=uuid4(),
            tenant_id=tenant_id,
            name=fields.name,
            url=fields.url,
            events=tuple(dict.fromkeys(fields.events)),
            format=fields.format,
            secrets=Secrets(new_secret()),
            created_at=datetime.now(UTC),
        )
        await self._store.insert(webhook, deadline)
        return webhook

    async def of_tenant(self, tenant_id: UUID, deadline: Deadline) -> Sequence[Webhook]:
        """The webhooks of a tenant, oldest first."""
        return await self._store.of_tenant(tenant_id, deadline)

    async def get(self, tenant_id: UUID, webhook_id: UUID, deadline: Deadline) -> Webhook:
        """One webhook."""
        return found(await self._store.find(tenant_id, webhook_id, deadline))

    async def rotate(self, tenant_id: UUID, webhook_id: UUID, deadline: Deadline) -> Webhook:
        """Give a webhook a new secret. For a day the one before signs too."""
        return found(await self._store.rotate(tenant_id, webhook_id, new_secret(), deadline))

    async def delete(self, tenant_id: UUID, webhook_id: UUID, deadline: Deadline) -> None:
        """Delete a webhook and its deliveries."""
        if not await self._store.delete(tenant_id, webhook_id, deadline):
            raise NotFound(NO_WEBHOOK)

    async def test(self, tenant_id: UUID, webhook_id: UUID, deadline: Deadline) -> Delivery:
        """Make a delivery that is a test, which is sent at once. Those of one second are one."""
        webhook = await self.get(tenant_id, webhook_id, deadline)
        return await self._deliveries.insert(delivery_of_test(webhook, datetime.now(UTC)), deadline)

    @asynccontextmanager
    async def newest_deliveries(
        self, tenant_id: UUID, webhook_id: UUID, count: int, deadline: Deadline
    ) -> AsyncIterator[Sequence[Delivery]]:
        """The newest deliveries to a webhook, at most `count`, newest first. They count as held inside."""
        async with self._limits.reservation(tenant_id, deadline) as reservation:
            async with self._limits.slot(tenant_id, deadline):
                await self.get(tenant_id, webhook_id, deadline)
                deliveries = await self._deliveries.newest(tenant_id, webhook_id, count, deadline)
            reservation.hold(sum(map(size_of, deliveries)), is_last=True)
            yield deliveries

    async def resend(self, tenant_id: UUID, webhook_id: UUID, delivery_id: UUID, deadline: Deadline) -> Delivery:
        """Send a delivery again, the same id and body, as if it were new."""
        await self.get(tenant_id, webhook_id, deadline)
        resent = await self._deliveries.resend(tenant_id, webhook_id, delivery_id, deadline)
        if resent is None:
            raise NotFound(NO_DELIVERY)
        return resent

    async def _check_host(self, host: str) -> None:
        """Raises InvalidParameter if a host is not public or has no address.

        A name that cannot be resolved now is checked later.
        """
        addresses = [host] if is_address(host) else await self._resolver.addresses(host)
        if addresses is None:
            return
        if not addresses:
            raise InvalidParameter(NO_ADDRESS)
        if not all(map(self._guard.allows, addresses)):
            raise InvalidParameter(NOT_PUBLIC)


def found(webhook: Webhook | None) -> Webhook:
    """A webhook that was looked for. Raises NotFound."""
    if webhook is None:
        raise NotFound(NO_WEBHOOK)
    return webhook


def host_of(url: str) -> str:
    """The host of a webhook's URL: a name, or an address without brackets. Raises InvalidParameter."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # a bad port or bad brackets
        raise InvalidParameter(URL_FORM) from None
    if host is None or port == 0 or not has_form(url, parts) or not (is_address(host) or is_name(host)):
        raise InvalidParameter(URL_FORM)
    return host


def has_form(url: str, parts: SplitResult) -> bool:
    """Whether a URL is one that all clients of HTTP read in the same way."""
    is_plain = url.isascii() and url.isprintable() and not set(url) & set(' "<>\\^`{|}#')
    return is_plain and parts.scheme in {"http", "https"} and "@" not in parts.netloc


def size_of(delivery: Delivery) -> int:
    """About how many bytes a delivery takes that is listed."""
    return 500 + sum(200 + len(attempt.response) for attempt in delivery.attempts)
