"""Makes a new mongod process the primary of a replica set of one, which takes writes from the user `sluice`.

A replica set is needed even for one node: a standalone server cannot confirm writes by a majority.
"""

import asyncio

from storage.client import Client, opened
from storage.commands import Document, driver_errors_as_unavailable

POLL_S = 0.02
"""The pause between two checks of a port or an election, which send no notification."""

NOT_YET_CODES = [94, 109]
"""NotYetInitialized and ConfigurationInProgress: a node whose port changed tries its old port first, for up to 30 s."""


async def prepare_replica_set(port: int, password: str) -> str:
    """Return when the mongod at `port` takes writes from the user `sluice`. Every step may be repeated.

    Returns the release of MongoDB whose format the files have, such as "6.0". A newer mongod does not change it.
    """
    await wait_for_port(port)
    # The password is also mongod's key file. So it is the password of mongod's own superuser, who always exists.
    url = f"mongodb://__system:{password}@127.0.0.1:{port}/?authSource=local"
    async with opened(url, "pymongo", directConnection=True) as client:
        with driver_errors_as_unavailable():
            await elect(client, f"127.0.0.1:{port}")
            await create_user(client, password)
            return await files_release(client)


async def wait_for_port(port: int) -> None:
    """Return when a server listens on `port` of 127.0.0.1.

    The driver tries a server at most twice a second, which would double the time to start.
    """
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(POLL_S)
        else:
            writer.close()
            return await writer.wait_closed()


async def elect(client: Client, address: str) -> None:
    """Make the one node, at `address` (host and port), the primary of its replica set."""
    config = await client["local"]["system.replset"].find_one()
    if config is None:
        await client.admin.command("replSetInitiate", {"_id": "sluice", "members": [{"_id": 0, "host": address}]})
    elif config["members"][0]["host"] != address:
        config["members"][0]["host"] = address
        await reconfigure(client, {**config, "version": config["version"] + 1})
    while True:
        if (await client.admin.command("hello"))["isWritablePrimary"]:
            return
        await asyncio.sleep(POLL_S)


async def reconfigure(client: Client, config: Document) -> None:
    """Give the replica set a new configuration, even if its node has another port than the stored one says."""
    while True:
        reply = await client.admin.command("replSetReconfig", config, force=True, allowable_errors=NOT_YET_CODES)
        if reply["ok"]:
            return
        await asyncio.sleep(POLL_S)


async def create_user(client: Client, password: str) -> None:
    """Create the user `sluice` or, if it exists, give it this password."""
    known = (await client.admin.command("usersInfo", "sluice"))["users"]
    await client.admin.command("updateUser" if known else "createUser", "sluice", pwd=password, roles=["root"])


async def files_release(client: Client) -> str:
    """The release of MongoDB whose format the files have."""
    reply = await client.admin.command("getParameter", featureCompatibilityVersion=1)
    return str(reply["featureCompatibilityVersion"]["version"])
