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
from pymongo.errors import OperationFailure

from server.core.errors import ConfigurationError
from storage.commands import Database
from storage.failures import UNAUTHORIZED
from storage.indexes import EVENTS, TENANTS
from storage.layout import NAMESPACE_EXISTS

PREFIX = "tenant."

MAX_NAMESPACE_BYTES = 255
"""MongoDB's limit on `DATABASE.COLLECTION`."""

REFUSED = re.compile(r"[%$]|(?<=\.)\.|\.\Z|(?<=\.system)\.")
"""What a name of a collection may not have, and `%`, which begins what is written instead."""

CANNOT_CREATE = "the user in --mongodb-url may not create views in this database: grant it the role readWrite"


def view_name(database: str, tenant: str, tenant_id: UUID) -> str:
    """The name of a tenant's view."""
    name = REFUSED.sub(lambda found: f"%{ord(found[0]):02X}", PREFIX + tenant)
    return name if len(f"{database}.{name}".encode()) <= MAX_NAMESPACE_BYTES else f"{PREFIX}%id.{tenant_id}"


def view_pipeline(tenant_id: UUID) -> list[dict[str, Any]]:
    """The stages of a tenant's view."""
    tenant = Binary.from_uuid(tenant_id)
    lowest, highest = {"tenant_id": tenant, "id": MinKey()}, {"tenant_id": tenant, "id": MaxKey()}
    return [{"$match": {"_id": {"$gte": lowest, "$lte": highest}}}, {"$set": {"id": "$_id.id"}}]


async def create_view(database: Database, tenant: str, tenant_id: UUID) -> None:
    """Create a tenant's view, unless it exists.

    Raises ConfigurationError if the user of the database may not, and the driver's errors.
    """
    try:
        name = view_name(database.name, tenant, tenant_id)
        await database.command({"create": name, "viewOn": EVENTS, "pipeline": view_pipeline(tenant_id)})
    except OperationFailure as error:
        if error.code == UNAUTHORIZED:  # a user of its own role may have all other rights
            raise ConfigurationError(CANNOT_CREATE) from None
        if error.code != NAMESPACE_EXISTS:
            raise


async def ensure_views(database: Database) -> None:
    """Create the views that are missing, and those again that show anything else. Raises what `create_view` does."""
    views = await database.list_collections(filter={"type": "view"})  # in which a UUID is a Binary
    pipelines = {view["name"]: view["options"]["pipeline"] async for view in views}
    async for tenant in database[TENANTS].find():
        name = view_name(database.name, tenant["_id"], tenant["tenant_id"])
        if pipelines.get(name) != view_pipeline(tenant["tenant_id"]):
            if name in pipelines:
                await database.drop_collection(name)  # to change it would need a right that readWrite lacks
            await create_view(database, tenant["_id"], tenant["tenant_id"])
