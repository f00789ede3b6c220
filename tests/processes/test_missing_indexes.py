"""Indexes and collections that an operator drops: they are found missing, made again, and named."""

import asyncio
from collections.abc import Iterator
from typing import Literal

import pytest

from server.core.errors import ConfigurationError
from storage.client import database, opened
from storage.indexes import ensure_indexes
from storage.layout import ensure_layout
from tests.support.harness import MongoClient
from tests.support.mongod import Mongod

ALL = [
    "keys.hash_1",
    "keys.previous.hash_1",
    "keys.window.until_1",
    "alerts.rule_id_1",
    "deliveries.due_at_1_webhook_id_1__id.tenant_id_1",
    "deliveries.subject_1_webhook_id_1",
    "deliveries.webhook_id_1__id_1",
    "deliveries.expires_at_1",
    "presence.until_1",
    "rejections.expires_at_1",
    "rules.tenant_id_1_name_1",
    "rule_results.expires_at_1",
    "usage.expires_at_1",
    "volumes.expires_at_1",
    "volumes.count_of_type",
    "webhooks.tenant_id_1_name_1",
]


@pytest.fixture
def mongo(mongod: Mongod) -> Iterator[MongoClient]:
    with mongod.client() as client:
        yield client
        client.drop_database("sluice")


async def ensure(mongod: Mongod, driver: Literal["motor", "pymongo"]) -> list[str]:
    async with opened(mongod.url, driver) as client:
        return await ensure_indexes(database(client, "sluice"))


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
def test_what_is_missing_is_made_and_named(
    mongod: Mongod, mongo: MongoClient, driver: Literal["motor", "pymongo"]
) -> None:
    assert asyncio.run(ensure(mongod, driver)) == ALL
    assert asyncio.run(ensure(mongod, driver)) == []
    mongo.sluice["keys"].drop_index("window.until_1")
    assert asyncio.run(ensure(mongod, driver)) == ["keys.window.until_1"]
    assert asyncio.run(ensure(mongod, driver)) == []


def test_what_is_in_the_way_later_is_named_too(mongod: Mongod, mongo: MongoClient) -> None:
    asyncio.run(ensure(mongod, "pymongo"))
    mongo.sluice["keys"].drop_index("hash_1")
    mongo.sluice["keys"].create_index("name", name="hash_1")
    with pytest.raises(ConfigurationError, match="'hash_1' of the collection 'keys' is in the way"):
        asyncio.run(ensure(mongod, "pymongo"))


async def ensure_collections(mongod: Mongod) -> list[str]:
    async with opened(mongod.url, "pymongo") as client:
        return await ensure_layout(database(client, "sluice"))


def test_the_collection_of_events_is_made_as_it_was(mongod: Mongod, mongo: MongoClient) -> None:
    assert asyncio.run(ensure_collections(mongod)) == ["events", "probes"]
    made = mongo.sluice.events.options()
    mongo.sluice.events.drop()
    assert asyncio.run(ensure_collections(mongod)) == ["events"]
    assert "clusteredIndex" in made
    assert mongo.sluice.events.options() == made
    assert asyncio.run(ensure_collections(mongod)) == []
