"""Alerts of tenants, as evaluations leave them."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx

from server.core.alerts.model import Alert
from server.core.alerts.transitions import opening_of
from server.core.rules.model import Rule
from storage.alerts import StoredAlerts, new_id, now
from storage.client import database, in_transaction, opened
from storage.commands import Database
from tests.support.harness import Json, Server, embedded_url
from tests.support.rules import evaluation, rule

ALERTS = "/api/v1/alerts"

Result = TypeVar("Result")


def on_database(server: Server, work: Callable[[Database], Awaitable[Result]]) -> Result:
    """What `work` returns, which runs on the server's embedded database."""

    async def run() -> Result:
        async with opened(embedded_url(server.data_dir), "pymongo") as client:
            return await work(database(client, "sluice"))

    return asyncio.run(run())


def open_alert(server: Server, key: Json, **fields: Any) -> Alert:
    """A new alert of the key's tenant, of a new rule with these fields."""
    return open_alert_of(server, rule(tenant_id=uuid.UUID(key["tenant_id"]), **fields))


def open_alert_of(server: Server, owner: Rule) -> Alert:
    """A new alert of a rule."""
    event_ids = (str(uuid.uuid4()), str(uuid.uuid4()))
    change = opening_of(owner, evaluation("firing", 12, event_ids=event_ids), now(), new_id)

    async def work(storage: Database) -> Alert:
        async def store(session: Any) -> Alert:
            await StoredAlerts(storage).store(change, session)
            return change.alert

        return await in_transaction(storage, store)

    return on_database(server, work)


def listed(client: httpx.Client, **parameters: str | int) -> list[Json]:
    """A page of alerts."""
    alerts: list[Json] = client.get(ALERTS, params=parameters).raise_for_status().json()
    return alerts
