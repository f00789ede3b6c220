"""Makes webhooks and transitions, and waits for what becomes of deliveries."""

import asyncio
from collections.abc import Iterable
from functools import partial
from uuid import UUID

import httpx

from server.core.alerts.model import Transition
from storage.client import database, in_transaction, opened
from storage.deliveries import enqueue
from tests.support.harness import Json, wait_until

WEBHOOKS = "/api/v1/webhooks"


def make(client: httpx.Client, url: str, name: str = "on call", **fields: object) -> Json:
    """A new webhook."""
    response = client.post(WEBHOOKS, json={"name": name, "url": url, **fields})
    assert response.status_code == 201, response.text
    made: Json = response.json()
    return made


def path_of(webhook: Json, *parts: str) -> str:
    """The path of a webhook, or of something that it has."""
    return "/".join([WEBHOOKS, webhook["id"], *parts])


def deliveries(client: httpx.Client, webhook: Json) -> list[Json]:
    """The deliveries to a webhook, newest first."""
    response = client.get(path_of(webhook, "deliveries"), params={"limit": 100})
    assert response.status_code == 200, response.text
    listed: list[Json] = response.json()
    return listed


def try_out(client: httpx.Client, webhook: Json) -> Json:
    """Send a test, and wait until it was tried. Returns its delivery."""
    response = client.post(path_of(webhook, "test"))
    assert response.status_code == 202, response.text
    return wait_for_attempts(client, webhook, response.json()["id"])


def wait_for_attempts(client: httpx.Client, webhook: Json, delivery_id: str, count: int = 1) -> Json:
    """Wait until a delivery has a number of attempts. Returns it."""
    found: list[Json] = []

    def has_attempts() -> bool:
        found[:] = [each for each in deliveries(client, webhook) if each["id"] == delivery_id]
        return len(found[0]["attempts"]) >= count

    wait_until(has_attempts, f"{count} attempts", timeout_s=40)
    return found[0]


def happen(url: str, transitions: Iterable[Transition]) -> None:
    """Let transitions happen in the database at a URL, each in a transaction of its own."""

    async def scenario() -> None:
        async with opened(url, "pymongo") as client:
            storage = database(client, "sluice")
            for transition in transitions:
                await in_transaction(storage, partial(enqueue, storage, transition))

    asyncio.run(scenario())


def tenant_of(key: Json) -> UUID:
    """The tenant of a key."""
    return UUID(key["tenant_id"])
