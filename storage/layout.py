"""The layout of the collection `events`, and its version in the collection `meta`.

In layout 2, `events` is clustered by `_id: {tenant_id, id}`: MongoDB keeps the documents themselves in the order of
their `_id`, and no index beside them. The events of a tenant stand together, oldest first, so every read of the API is
a range of them. In layout 1 the collection was a usual one, with `_id` the event's id, the field `tenant_id`, and an
index for lists.
"""

from collections.abc import Sequence
from typing import Any

from pymongo.errors import OperationFailure

from server.core.errors import ConfigurationError
from storage.commands import Database, Document, listed
from storage.indexes import EVENTS, META

LAYOUT_ID = "layout"
"""The `_id` of the document in `meta` that holds the version."""

LAYOUT = 2
"""The version that this code reads and writes."""

CLUSTERED = {"key": {"_id": 1}, "unique": True}

NAMESPACE_EXISTS = 48
"""MongoDB's code if a collection exists already."""


async def check_layout(database: Database) -> None:
    """Raises ConfigurationError if the database has another layout, and the driver's errors."""
    version = await layout_of(database)
    if version not in (None, LAYOUT):
        raise ConfigurationError(problem(version))


async def ensure_layout(database: Database) -> None:
    """Create `events` in this layout if there is none, after `check_layout`. Raises the driver's errors."""
    if await layout_of(database) is None:
        await create_events(database)
        await save_layout(database)


def query_by_full_ids(ids: Sequence[Any]) -> Document:
    """The MongoDB query for events by their `_id`s, which ascend.

    MongoDB examines all events from the lowest to the highest. For the ids of a batch, these are the tenant's of one
    millisecond, since all ids of a batch have one time. For a list alone, it would examine the whole collection.
    """
    return {"_id": {"$gte": ids[0], "$lte": ids[-1], "$in": list(ids)}}


def problem(version: int) -> str:
    """What is wrong with a database of another version, and what to do."""
    if version > LAYOUT:
        return f"the database has layout {version}, and this Sluice knows {LAYOUT}: install a newer version of Sluice"
    return f"the database has layout {version}, and this Sluice needs {LAYOUT}: run `sluice migrate`"


async def layout_of(database: Database) -> int | None:
    """The version of the database's layout; None if it has no events yet."""
    saved = await database[META].find_one({"_id": LAYOUT_ID})
    if saved is not None:
        return int(saved["version"])
    found = await listed(database, "listCollections", filter={"name": EVENTS})
    if not found:
        return None
    if is_clustered(found[0]):  # a process ended between the two writes of `ensure_layout`
        await save_layout(database)
        return LAYOUT
    return 1


def is_clustered(collection: Any) -> bool:
    """Whether a collection, as `listCollections` shows it, is clustered."""
    return "clusteredIndex" in collection.get("options", {})


async def create_events(database: Database, name: str = EVENTS) -> None:
    """Create a collection for events, unless it exists."""
    try:
        await database.command({"create": name, "clusteredIndex": CLUSTERED})
    except OperationFailure as error:
        if error.code != NAMESPACE_EXISTS:  # another process was first
            raise


async def save_layout(database: Database) -> None:
    """Save that the database has this layout."""
    await database[META].replace_one({"_id": LAYOUT_ID}, {"version": LAYOUT}, upsert=True)
