"""The view of each tenant's events, for analysts: `tenant.NAME`, in which `id` is a field of its own.

Its pipeline begins with a range of `_id`, so MongoDB reads the events of that tenant alone. A user of MongoDB who may
read the view and nothing else sees no other tenant's events.

MongoDB and its drivers refuse some names of collections. So some characters are written as `%` and two digits: `%`,
`$`, a dot at an end or after another dot, and a dot after the part `system`. A name that is too long is replaced by
`%id.` and the tenant's id. So two tenants never share a view. Examples: `tenant.acme.com`, `tenant.50%25`,
`tenant.%2Ehidden`, `tenant.system%2Elogs`.
"""

import re
from typing import Any
from uuid import UUID

from bson.binary import Binary
from bson.max_key import MaxKey
from bson.min_key import MinKey

from server.core.errors import ConfigurationError
from storage.commands import Database, listed
from storage.indexes import EVENTS, TENANTS
from storage.layout import create_view

PREFIX = "tenant."

MAX_NAMESPACE_BYTES = 255
"""MongoDB's limit on `DATABASE.COLLECTION`."""

REFUSED = re.compile(r"[%$]|(?<=\.)\.|\.\Z|(?<=\.system)\.")
"""What a name of a collection may not have, and `%`, which begins what is written instead."""


def view_name(database: str, tenant: str, tenant_id: UUID) -> str:
    """The name of a tenant's view."""
    name = REFUSED.sub(lambda found: f"%{ord(found[0]):02X}", PREFIX + tenant)
    return name if len(f"{database}.{name}".encode()) <= MAX_NAMESPACE_BYTES else f"{PREFIX}%id.{tenant_id}"


def view_pipeline(tenant_id: UUID) -> list[dict[str, Any]]:
    """The stages of a tenant's view."""
    tenant = Binary.from_uuid(tenant_id)
    lowest, highest = {"tenant_id": tenant, "id": MinKey()}, {"tenant_id": tenant, "id": MaxKey()}
    return [{"$match": {"_id": {"$gte": lowest, "$lte": highest}}}, {"$set": {"id": "$_id.id"}}]


async def ensure_view(database: Database, tenant: str, tenant_id: UUID) -> None:
    """Create a tenant's view. One of its name that shows anything else is made again.

    Raises ConfigurationError if the user of the database may not, or if a usual collection has the name, and the
    driver's errors.
    """
    name = view_name(database.name, tenant, tenant_id)
    found = await listed(database, "listCollections", filter={"name": name})
    await make_right(database, name, tenant_id, found[0] if found else None)


async def ensure_views(database: Database) -> None:
    """Create the views that are missing, and those again that show anything else. Raises what `ensure_view` does.

    A tenant that is being deleted gets none.
    """
    collections = await database.list_collections(filter={"name": {"$regex": f"^{re.escape(PREFIX)}"}})
    found = {each["name"]: each async for each in collections}
    async for tenant in database[TENANTS].find({"deletion": None}):
        name = view_name(database.name, tenant["_id"], tenant["tenant_id"])
        await make_right(database, name, tenant["tenant_id"], found.get(name))


async def drop_view(database: Database, tenant: str, tenant_id: UUID) -> None:
    """Drop the view of a tenant. Anything else of its name stays. Raises the driver's errors."""
    name = view_name(database.name, tenant, tenant_id)
    if await listed(database, "listCollections", filter={"name": name, "type": "view"}):
        await database.drop_collection(name)


async def make_right(database: Database, name: str, tenant_id: UUID, found: Any) -> None:
    """Make a view show a tenant's events. `found` is what `listCollections` shows of this name, if it shows any."""
    pipeline = view_pipeline(tenant_id)
    if found is not None:
        if found["type"] != "view":
            raise ConfigurationError(
                f"{name!r} in the database is no view, and the view of a tenant needs its name: rename the collection"
            )
        if found["options"] == {"viewOn": EVENTS, "pipeline": pipeline}:
            return
        await database.drop_collection(name)  # to change it would need a right that readWrite lacks
    await create_view(database, name, EVENTS, pipeline)
