"""The change stream of a worker goes on where it was, also when other tenants are followed."""

import asyncio
import uuid
from pathlib import Path

from bson.binary import Binary

from storage.client import database, opened
from storage.tail import Listener, StoredChange, TailHistory
from tests.support.mongod import Mongod

LEFT, STAYS = uuid.uuid4(), uuid.uuid4()


async def next_change(listener: Listener) -> StoredChange:
    while (change := await listener.next()) is None:
        pass
    return change


def test_a_change_of_a_tenant_that_is_no_longer_followed_is_a_place_to_go_on(tmp_path: Path) -> None:
    async def scenario(url: str) -> None:
        async with opened(url, "pymongo") as client:
            storage = database(client, "sluice")
            history = TailHistory(storage)

            async def store(tenant: uuid.UUID, number: int) -> None:
                event_id = {"tenant_id": Binary.from_uuid(tenant), "id": Binary.from_uuid(uuid.UUID(int=number))}
                await storage["events"].insert_one({"_id": event_id})

            await store(STAYS, 0)
            async with history.listen([LEFT, STAYS], None) as listener:
                await store(LEFT, 1)
                await store(STAYS, 2)
                left = await next_change(listener)
            assert left.tenant_id == LEFT
            for tenants in ([STAYS], [LEFT, STAYS]):
                async with history.listen(tenants, left.position) as listener:
                    assert (await next_change(listener)).tenant_id == STAYS

    with Mongod(tmp_path / "mongod") as mongod:
        asyncio.run(scenario(mongod.url))
