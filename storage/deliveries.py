"""Stores deliveries in MongoDB: a document for each, in the collection `deliveries`, which is the outbox.

The `_id` is `{tenant_id, id}`. A document has `due_at` while it is pending, and `expires_at` from then on: MongoDB
removes it a week later. Times by which something is due are the database's, so the clocks of the hosts do not matter.
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
from bson.binary import Binary
from pymongo import ReturnDocument

from server.core.alerts.model import Transition
from server.core.deadline import Deadline
from server.core.webhooks.messages import deliveries_of
from server.core.webhooks.model import MAX_KEPT_ATTEMPTS, Attempt, Delivery, Webhook
from storage.commands import MAJORITY, Database, Document, delete_each, insert_each, retry_without_events, update_each
from storage.decoding import decoded, decoded_one
from storage.indexes import DELIVERIES, PENDING, WEBHOOKS
from storage.webhooks import id_of, range_of, set_disabled, webhook_of

KEPT_MS = 7 * 24 * 60 * 60 * 1_000
"""How long a delivery is shown, and can be resent, after its last attempt."""

PAUSE_MS = 1_000
"""How long after an earlier delivery of its subject one is due."""

MAX_EARLIER = 10
"""Earlier deliveries that are read to find one that can be decoded."""

SET_ASIDE_MS = 10 * 60 * 1_000
"""How long until a delivery that cannot be decoded is tried again. Its operator may correct it meanwhile."""


async def enqueue(database: Database, transition: Transition, session: Any) -> int:
    """Store a delivery of a transition for each webhook of its tenant that wants it, in the transaction of `session`.

    A webhook that cannot be decoded gets none. Returns how many. Raises the driver's errors.
    """
    query = {"_id": range_of(transition.alert.tenant_id)}
    found = await database[WEBHOOKS].find(query, session=session).to_list(None)
    deliveries = deliveries_of(decoded(WEBHOOKS, found, webhook_of), transition)
    if deliveries:
        await database[DELIVERIES].insert_many([*map(document_of, deliveries)], session=session)
    return len(deliveries)


class StoredDeliveries:
    """The collection `deliveries`. It implements `DeliveryStore` and `Outbox`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._collection = database[DELIVERIES]

    async def insert(self, delivery: Delivery, deadline: Deadline) -> Delivery:
        """See `DeliveryStore`."""
        documents = [document_of(delivery)]
        await retry_without_events(partial(insert_each, self._database, DELIVERIES, documents), deadline)
        own_id = {"_id": id_of(delivery.tenant_id, delivery.id)}
        found = await retry_without_events(partial(self._collection.find_one, own_id), deadline)
        return delivery if found is None else decoded_one(DELIVERIES, found, delivery_of)

    async def newest(self, tenant_id: UUID, webhook_id: UUID, count: int, deadline: Deadline) -> Sequence[Delivery]:
        """See `DeliveryStore`."""
        query = {"webhook_id": Binary.from_uuid(webhook_id), "_id": range_of(tenant_id)}

        async def find() -> list[Document]:
            return await self._collection.find(query, {"body": 0}, sort=[("_id", -1)], limit=count).to_list(count)

        return decoded(DELIVERIES, await retry_without_events(find, deadline), delivery_of)

    async def resend(self, tenant_id: UUID, webhook_id: UUID, delivery_id: UUID, deadline: Deadline) -> Delivery | None:
        """See `DeliveryStore`."""
        query = {"_id": id_of(tenant_id, delivery_id), "webhook_id": Binary.from_uuid(webhook_id)}
        change = {"state": "pending", "tries": 0, "due_at": "$$NOW", "expires_at": "$$REMOVE"}
        found = await retry_without_events(partial(self._update, query, change), deadline)
        return None if found is None else decoded_one(DELIVERIES, found, delivery_of)

    async def due(
        self, count: int, busy: Collection[UUID], in_flight: Collection[UUID], deadline: Deadline
    ) -> Sequence[Delivery]:
        """See `Outbox`."""
        query: Document = {
            "$expr": {"$lte": ["$due_at", "$$NOW"]},
            "due_at": {"$exists": True},
            "webhook_id": {"$not": {"$in": [*map(Binary.from_uuid, busy)]}},
            "_id.id": {"$not": {"$in": [*map(Binary.from_uuid, in_flight)]}},
        }

        async def find() -> list[Document]:
            found = self._collection.find(query, {"attempts": 0}, sort=[("due_at", 1)], limit=count, batch_size=count)
            return await found.to_list(count)

        documents = await retry_without_events(find, deadline)
        deliveries = decoded(DELIVERIES, documents, delivery_of)
        if len(deliveries) < len(documents):
            await self._set_aside(documents, deliveries, deadline)
        return deliveries

    async def webhooks(self, deliveries: Sequence[Delivery], deadline: Deadline) -> dict[UUID, Webhook | None]:
        """See `Outbox`."""
        ids = {each.webhook_id: id_of(each.tenant_id, each.webhook_id) for each in deliveries}

        async def find() -> list[Document]:
            return await self._database[WEBHOOKS].find({"_id": {"$in": [*ids.values()]}}).to_list(None)

        documents = await retry_without_events(find, deadline)
        found = {webhook.id: webhook for webhook in decoded(WEBHOOKS, documents, webhook_of)}
        return {document["_id"]["id"]: found.get(document["_id"]["id"]) for document in documents}

    async def wait_for_earlier(self, delivery: Delivery, deadline: Deadline) -> bool:
        """See `Outbox`."""
        query = {
            "webhook_id": Binary.from_uuid(delivery.webhook_id),
            "subject": Binary.from_uuid(delivery.subject),
            "_id": {"$gte": range_of(delivery.tenant_id)["$gte"], "$lt": id_of(delivery.tenant_id, delivery.id)},
            **PENDING,
        }
        unused = {"body": 0, "attempts": 0}

        async def find() -> list[Document]:
            return await self._collection.find(query, unused, sort=[("_id", 1)], limit=MAX_EARLIER).to_list(None)

        earlier = decoded(DELIVERIES, await retry_without_events(find, deadline), delivery_of)
        if not earlier:
            return False
        due_at = {"$add": [{"$max": ["$$NOW", earlier[0].due_at]}, PAUSE_MS]}
        await retry_without_events(partial(self._update, query_of(delivery), {"due_at": due_at}), deadline)
        return True

    async def delivered(self, delivery: Delivery, attempt: Attempt, deadline: Deadline) -> None:
        """See `Outbox`."""
        if delivery.event == "webhook.test":
            await self._set_disabled(delivery, None, deadline)
        await self._settle(delivery, attempt, settled("delivered"), deadline)

    async def postpone(self, delivery: Delivery, attempt: Attempt, delay_s: float, deadline: Deadline) -> None:
        """See `Outbox`."""
        await self._settle(delivery, attempt, {"due_at": {"$add": ["$$NOW", round(delay_s * 1_000)]}}, deadline)

    async def failed(self, delivery: Delivery, attempt: Attempt, *, gone: bool, deadline: Deadline) -> None:
        """See `Outbox`."""
        if gone:
            await self._set_disabled(delivery, "$$NOW", deadline)
        await self._settle(delivery, attempt, settled("failed"), deadline)

    async def drop(self, delivery: Delivery, deadline: Deadline) -> None:
        """See `Outbox`."""
        query = {"_id": id_of(delivery.tenant_id, delivery.id)}
        await retry_without_events(partial(delete_each, self._database, DELIVERIES, query), deadline)

    async def _set_aside(
        self, documents: Sequence[Document], deliveries: Sequence[Delivery], deadline: Deadline
    ) -> None:
        """Let those of the documents be due later that are none of the deliveries, so that they hold up no others."""
        good = [{"tenant_id": each.tenant_id, "id": each.id} for each in deliveries]
        query = {"_id": {"$in": [each["_id"] for each in documents if each["_id"] not in good]}, **PENDING}
        later = [{"$set": {"due_at": {"$add": ["$$NOW", SET_ASIDE_MS]}}}]
        await retry_without_events(partial(self._collection.update_many, query, later), deadline)

    async def _settle(self, delivery: Delivery, attempt: Attempt, change: Document, deadline: Deadline) -> None:
        """Add an attempt to a delivery, unless it was settled or resent meanwhile."""
        attempts = {"$concatArrays": ["$attempts", [{"$literal": fields_of(attempt)}]]}
        change = {
            **change,
            "tries": {"$add": ["$tries", 1]},
            "attempts": {"$slice": [attempts, -MAX_KEPT_ATTEMPTS]},
        }
        statement = {"q": query_of(delivery), "u": [{"$set": change}]}
        await retry_without_events(partial(update_each, self._database, DELIVERIES, [statement], MAJORITY), deadline)

    async def _set_disabled(self, delivery: Delivery, disabled_at: Any, deadline: Deadline) -> None:
        change = partial(set_disabled, self._database, delivery.tenant_id, delivery.webhook_id, disabled_at)
        await retry_without_events(change, deadline)

    async def _update(self, query: Document, change: Document) -> Document | None:
        return await self._collection.find_one_and_update(
            query, [{"$set": change}], return_document=ReturnDocument.AFTER
        )


def settled(state: str) -> Document:
    """The change that makes a delivery pending no longer."""
    return {"state": state, "due_at": "$$REMOVE", "expires_at": {"$add": ["$$NOW", KEPT_MS]}}


def query_of(delivery: Delivery) -> Document:
    """The query for a delivery, if it is due when it was."""
    return {"_id": id_of(delivery.tenant_id, delivery.id), "due_at": delivery.due_at}


def fields_of(attempt: Attempt) -> Document:
    """An attempt as it is stored."""
    return {
        "at": attempt.at,
        "duration_ms": attempt.duration_ms,
        "status": attempt.status,
        "response": attempt.response,
        "error": attempt.error,
    }


def document_of(delivery: Delivery) -> Document:
    """The document that holds a new delivery."""
    return {
        "_id": id_of(delivery.tenant_id, delivery.id),
        "webhook_id": Binary.from_uuid(delivery.webhook_id),
        "subject": Binary.from_uuid(delivery.subject),
        "event": delivery.event,
        "body": Binary(delivery.body),
        "created_at": delivery.created_at,
        "due_at": delivery.due_at,
        "state": delivery.state,
        "tries": delivery.tries,
        "attempts": [],
    }


def delivery_of(document: Document) -> Delivery:
    """The delivery that a document holds, or as much of it as was asked for."""
    return msgspec.convert({"body": b"", "due_at": None, **document, **document["_id"]}, Delivery)
