"""Stores webhooks in MongoDB: a document for each. The `_id` is `{tenant_id, id}`.

Their secrets stand there as they are, since each delivery is signed with them.
"""

from functools import partial
from typing import Any
from uuid import UUID

import msgspec
from bson.binary import Binary
from bson.max_key import MaxKey
from pymongo import ReturnDocument

from server.core.deadline import Deadline
from server.core.errors import Conflict
from server.core.webhooks.model import MAX_WEBHOOKS, Webhook
from server.core.webhooks.signatures import OVERLAP
from storage.commands import MAJORITY, Database, Document, delete_each, insert_each, retry_without_events, update_each
from storage.decoding import decoded, decoded_one
from storage.indexes import DELIVERIES, WEBHOOKS

OVERLAP_MS = round(OVERLAP.total_seconds() * 1_000)


class StoredWebhooks:
    """The collection `webhooks`. It implements `WebhookStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._collection = database[WEBHOOKS]

    async def insert(self, webhook: Webhook, deadline: Deadline) -> None:
        """See `WebhookStore`."""
        if len(await self.of_tenant(webhook.tenant_id, deadline)) >= MAX_WEBHOOKS:
            raise Conflict(f"This tenant has {MAX_WEBHOOKS} webhooks, which is the most: delete one")
        documents = [document_of(webhook)]
        refused = await retry_without_events(partial(insert_each, self._database, WEBHOOKS, documents), deadline)
        if refused and await self.find(webhook.tenant_id, webhook.id, deadline) is None:
            raise Conflict("name: this tenant has a webhook of this name. Give another, or delete that one")

    async def of_tenant(self, tenant_id: UUID, deadline: Deadline) -> list[Webhook]:
        """See `WebhookStore`."""
        found = await retry_without_events(partial(self._find, {"_id": range_of(tenant_id)}), deadline)
        return decoded(WEBHOOKS, found, webhook_of)

    async def find(self, tenant_id: UUID, webhook_id: UUID, deadline: Deadline) -> Webhook | None:
        """See `WebhookStore`."""
        found = await retry_without_events(partial(self._find, {"_id": id_of(tenant_id, webhook_id)}), deadline)
        return decoded_one(WEBHOOKS, found[0], webhook_of) if found else None

    async def rotate(self, tenant_id: UUID, webhook_id: UUID, secret: bytes, deadline: Deadline) -> Webhook | None:
        """See `WebhookStore`."""
        own_id = id_of(tenant_id, webhook_id)
        secrets = {
            "current": Binary(secret),
            "previous": "$secrets.current",
            "previous_until": {"$add": ["$$NOW", OVERLAP_MS]},
        }
        query = {"_id": own_id, "secrets.current": {"$ne": Binary(secret)}}
        change = [{"$set": {"secrets": secrets}}]
        await retry_without_events(partial(self._update, query, change), deadline)
        return await self.find(tenant_id, webhook_id, deadline)

    async def delete(self, tenant_id: UUID, webhook_id: UUID, deadline: Deadline) -> bool:
        """See `WebhookStore`. The webhook goes first: nothing is delivered to it then, and no delivery is made.

        One that cannot be decoded can be deleted too.
        """
        own_id = id_of(tenant_id, webhook_id)
        if not await retry_without_events(partial(self._find, {"_id": own_id}), deadline):
            return False
        await retry_without_events(partial(delete_each, self._database, WEBHOOKS, {"_id": own_id}), deadline)
        query = {"webhook_id": Binary.from_uuid(webhook_id), "_id": range_of(tenant_id)}
        await retry_without_events(partial(delete_each, self._database, DELIVERIES, query), deadline)
        return True

    async def _find(self, query: Document) -> list[Document]:
        return await self._collection.find(query, sort=[("created_at", 1)]).to_list(None)

    async def _update(self, query: Document, change: Any) -> Document | None:
        return await self._collection.find_one_and_update(query, change, return_document=ReturnDocument.AFTER)


def id_of(tenant_id: UUID, own_id: UUID) -> Document:
    """The `_id` of something that a tenant has."""
    return {"tenant_id": Binary.from_uuid(tenant_id), "id": Binary.from_uuid(own_id)}


def range_of(tenant_id: UUID) -> Document:
    """The range of the `_id`s of all that a tenant has."""
    tenant = Binary.from_uuid(tenant_id)
    return {"$gte": {"tenant_id": tenant}, "$lt": {"tenant_id": tenant, "id": MaxKey()}}


async def set_disabled(database: Database, tenant_id: UUID, webhook_id: UUID, disabled_at: Any) -> None:
    """Disable a webhook, or enable it if `disabled_at` is None. Raises the driver's errors."""
    change = [{"$set": {"disabled_at": disabled_at}}]
    await update_each(database, WEBHOOKS, [{"q": {"_id": id_of(tenant_id, webhook_id)}, "u": change}], MAJORITY)


def document_of(webhook: Webhook) -> Document:
    """The document that holds a webhook."""
    return {
        "_id": id_of(webhook.tenant_id, webhook.id),
        "name": webhook.name,
        "url": webhook.url,
        "events": list(webhook.events),
        "format": webhook.format,
        "secrets": {"current": Binary(webhook.secrets.current)},
        "created_at": webhook.created_at,
        "disabled_at": webhook.disabled_at,
    }


def webhook_of(document: Document) -> Webhook:
    """The webhook that a document holds."""
    return msgspec.convert({**document, **document["_id"]}, Webhook)
