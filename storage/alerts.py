"""Stores alerts in MongoDB: a document for each, which is open as long as it has the field `is_open`.

The `_id` is `{tenant_id, id}`, and ids begin with the time, so the alerts of a tenant stand together, oldest first. A
unique index keeps a rule from having two that are open. Whatever opens or resolves an alert is a transaction, in
which the deliveries to webhooks are written too (`deliveries.py`).
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from time import time_ns
from typing import Any
from uuid import UUID

import msgspec
from bson.binary import Binary
from pymongo import ReturnDocument

from server.core.alerts.model import Alert, Resolution
from server.core.alerts.store import NO_ALERT, AlertFilter
from server.core.alerts.transitions import Change, resolution_of
from server.core.deadline import Deadline
from server.core.errors import NotFound
from server.core.events.ids import new_ids
from server.core.rules.model import Window
from server.core.times import NS_PER_MS, from_milliseconds, to_milliseconds
from storage.client import in_transaction
from storage.commands import Database, Document, retry_without_events
from storage.decoding import Undecodable, decoded, decoded_one
from storage.deliveries import enqueue
from storage.indexes import ALERTS
from storage.webhooks import id_of, range_of

OPEN: Document = {"is_open": True}


class StoredAlerts:
    """The collection `alerts`. It implements `AlertReader` and `AlertChanges`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._alerts = database[ALERTS]

    async def page(
        self, tenant_id: UUID, where: AlertFilter, below: UUID | None, count: int, deadline: Deadline
    ) -> Sequence[Alert]:
        """See `AlertReader`."""
        query, alerts = query_of(tenant_id, where, below), list[Alert]()
        while True:
            missing = count - len(alerts)
            found = await retry_without_events(partial(self._find, query, missing), deadline)
            alerts += decoded(ALERTS, found, alert_of)
            if len(found) < missing or len(alerts) == count:
                return alerts
            query["_id"]["$lt"] = found[-1]["_id"]  # for each that was left out, another one

    async def get(self, tenant_id: UUID, alert_id: UUID, deadline: Deadline) -> Alert:
        """See `AlertReader`."""
        own_id = {"_id": id_of(tenant_id, alert_id)}
        return found_alert(await retry_without_events(partial(self._alerts.find_one, own_id), deadline))

    async def acknowledge(self, tenant_id: UUID, alert_id: UUID, deadline: Deadline) -> Alert:
        """See `AlertChanges`."""
        change = [{"$set": {"acknowledged_at": {"$ifNull": ["$acknowledged_at", now()]}}}]
        update = partial(
            self._alerts.find_one_and_update,
            {"_id": id_of(tenant_id, alert_id)},
            change,
            return_document=ReturnDocument.AFTER,
        )
        return found_alert(await retry_without_events(update, deadline))

    async def resolve(self, tenant_id: UUID, alert_id: UUID, deadline: Deadline) -> Alert:
        """See `AlertChanges`."""
        work = partial(self._resolve_in, id_of(tenant_id, alert_id))
        return await retry_without_events(partial(in_transaction, self._database, work), deadline)

    async def resolve_of_rule(self, tenant_id: UUID, rule_id: UUID, resolution: Resolution, session: Any) -> None:
        """Resolve the open alert of a rule that is deleted or disabled, if it has one, in the session's transaction.

        An alert that cannot be decoded stays as it is.
        """
        with suppress(Undecodable):
            alert = await self.open_alert(tenant_id, rule_id, session)
            if alert is not None:
                await self._store_resolved(alert, resolution, session)

    async def open_alert(self, tenant_id: UUID, rule_id: UUID, session: Any) -> Alert | None:
        """The open alert of a rule, in the session's transaction. Raises Undecodable."""
        query = {**OPEN, "rule_id": Binary.from_uuid(rule_id), "_id.tenant_id": Binary.from_uuid(tenant_id)}
        document = await self._alerts.find_one(query, session=session)
        return None if document is None else decoded_one(ALERTS, document, alert_of)

    async def store(self, change: Change, session: Any) -> None:
        """Store what becomes of an alert, and what webhooks are told of it, in the session's transaction."""
        document = document_of(change.alert)
        await self._alerts.replace_one({"_id": document["_id"]}, document, upsert=True, session=session)
        if change.transition is not None:
            await enqueue(self._database, change.transition, session)

    async def _find(self, query: Document, count: int) -> list[Document]:
        return await self._alerts.find(query, sort=[("_id", -1)], hint=[("_id", 1)], limit=count).to_list(None)

    async def _resolve_in(self, own_id: Document, session: Any) -> Alert:
        alert = found_alert(await self._alerts.find_one({"_id": own_id}, session=session))
        return alert if alert.resolved_at else await self._store_resolved(alert, "manual", session)

    async def _store_resolved(self, alert: Alert, resolution: Resolution, session: Any) -> Alert:
        change = resolution_of(alert, resolution, now(), new_id)
        await self.store(change, session)
        return change.alert


def now() -> datetime:
    """The time of this host, to the millisecond."""
    return from_milliseconds(time_ns() // NS_PER_MS)


def new_id() -> UUID:
    """A new id, which begins with the time of this host."""
    return UUID(bytes=new_ids(time_ns() // NS_PER_MS, 1).binary[0])


def query_of(tenant_id: UUID, where: AlertFilter, below: UUID | None) -> Document:
    """The query for the alerts of a tenant that match, and are older than `below`."""
    query: Document = {"_id": range_of(tenant_id)}
    if below is not None:
        query["_id"]["$lt"] = id_of(tenant_id, below)
    if where.is_resolved is not None:
        query["is_open"] = None if where.is_resolved else True
    if where.severity is not None:
        query["severity"] = where.severity
    if where.rule_id is not None:
        query["rule_id"] = Binary.from_uuid(where.rule_id)
    return query


def found_alert(document: Document | None) -> Alert:
    """The alert that was found. Raises NotFound if none was, and Undecodable."""
    if document is None:
        raise NotFound(NO_ALERT)
    return decoded_one(ALERTS, document, alert_of)


def document_of(alert: Alert) -> Document:
    """The document that holds an alert. It has no field that would be null, but for the value."""
    optional = {
        "is_open": True if alert.resolved_at is None else None,
        "resolved_at": alert.resolved_at,
        "resolution": alert.resolution,
        "acknowledged_at": alert.acknowledged_at,
    }
    return {
        "_id": id_of(alert.tenant_id, alert.id),
        "rule_id": Binary.from_uuid(alert.rule_id),
        "rule_name": alert.rule_name,
        "severity": alert.severity,
        "message": alert.message,
        "value": alert.value,
        "window_start": from_milliseconds(alert.window.start_ms),
        "window_end": from_milliseconds(alert.window.end_ms),
        "event_ids": [Binary.from_uuid(UUID(each)) for each in alert.event_ids],
        "created_at": alert.created_at,
        **{field: value for field, value in optional.items() if value is not None},
    }


def alert_of(document: Document) -> Alert:
    """The alert that a document holds."""
    window = Window(to_milliseconds(document["window_start"]), to_milliseconds(document["window_end"]))
    fields = {**document, **document["_id"], "window": window, "event_ids": [*map(str, document["event_ids"])]}
    return msgspec.convert(fields, Alert)
