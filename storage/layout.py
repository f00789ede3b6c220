"""The layout of the collection `events`, and its version in the collection `meta`.

In layout 2, `events` is clustered by `_id: {tenant_id, id}`: MongoDB keeps the documents themselves in the order of
their `_id`, and no index beside them. The events of a tenant stand together, oldest first, so every read of the API is
a range of them. In layout 1 the collection was a usual one, with `_id` the event's id, the field `tenant_id`, and an
index for lists.

A Sluice of layout 1 does not know `meta`. Two things keep it from storing events that no list shows:

1. `probes` is a view. It needs a usual collection of that name, so it does not start: exit status 2, one line. It looks
   before it writes anything.
2. The validator of `events` asks for a tenant in `_id`. One that had looked before the view was made starts, but each
   of its events is refused. The validator has no measurable cost.
"""

from collections.abc import Sequence
from typing import Any

from pymongo.errors import OperationFailure

from server.core.errors import ConfigurationError
from storage.commands import Database, Document, listed
from storage.failures import UNAUTHORIZED
from storage.indexes import EVENTS, META

LAYOUT_ID = "layout"
"""The `_id` of the document in `meta` that holds the version."""

LAYOUT = 2
"""The version that this code reads and writes."""

OLD_EVENTS = "events.layout1"
"""The events of layout 1 while they are copied."""

TOO_LARGE_EVENTS = "events.too_large"
"""The events of layout 1 that are too large for layout 2. Each has a field `tenant_id`."""

OLD_PROBES = "probes"
"""The collection in which layout 1 tried writes."""

CLUSTERED = {"key": {"_id": 1}, "unique": True}

VALIDATOR: Document = {"_id.tenant_id": {"$exists": True}}
"""What every event of this layout has."""

NAMESPACE_EXISTS = 48
"""MongoDB's code if a collection exists already."""

CANNOT_CREATE_VIEWS = "the user in --mongodb-url may not create views in this database: grant it the role readWrite"


class OldLayout(ConfigurationError):
    """The database has an older layout, which `sluice migrate` brings to this one."""


async def check_layout(database: Database) -> None:
    """Raises ConfigurationError if the database has another layout, and the driver's errors."""
    version = await layout_of(database)
    if version is not None and version < LAYOUT:
        raise OldLayout(f"the database has layout {version}, and this Sluice needs {LAYOUT}: run `sluice migrate`")
    check_known(version)


def check_known(version: int | None) -> None:
    """Raises ConfigurationError if a version is newer than this code."""
    if version is not None and version > LAYOUT:
        raise ConfigurationError(
            f"the database has layout {version}, and this Sluice knows {LAYOUT}: install a newer version of Sluice"
        )


async def ensure_layout(database: Database) -> list[str]:
    """Create what this layout needs and the database lacks, after `check_layout`. Returns the names of collections.

    Raises ConfigurationError if the user of the database may not, and the driver's errors.
    """
    made = []
    if not await exists(database, EVENTS):  # or an insert would create a usual collection
        await create_events(database)
        made.append(EVENTS)
    if await saved_layout(database) is None:
        await save_layout(database)
    if await keep_layout_1_out(database):
        made.append(OLD_PROBES)
    return made


def query_by_full_ids(ids: Sequence[Any]) -> Document:
    """The MongoDB query for events by their `_id`s, which ascend.

    MongoDB examines all events from the lowest to the highest. For the ids of a batch, these are the tenant's of one
    millisecond, since all ids of a batch have one time. For a list alone, it would examine the whole collection.
    """
    return {"_id": {"$gte": ids[0], "$lte": ids[-1], "$in": list(ids)}}


async def layout_of(database: Database) -> int | None:
    """The version of the database's layout; None if it has no events yet. Raises the driver's errors.

    It is 1 also if `events` is a usual collection, whatever `meta` says: an operator may have dropped `events` or
    `meta`, or restored them from a copy.
    """
    version = await saved_layout(database)
    if version not in (None, LAYOUT):
        return version
    if await exists(database, OLD_EVENTS):
        return 1
    found = await listed(database, "listCollections", filter={"name": EVENTS})
    if found:
        return LAYOUT if is_clustered(found[0]) else 1
    return version


async def saved_layout(database: Database) -> int | None:
    """The version in `meta`; None if there is none."""
    saved = await database[META].find_one({"_id": LAYOUT_ID})
    return None if saved is None else int(saved["version"])


def is_clustered(collection: Any) -> bool:
    """Whether a collection, as `listCollections` shows it, is clustered."""
    return "clusteredIndex" in collection.get("options", {})


async def exists(database: Database, name: str) -> bool:
    """Whether there is a collection or view of this name."""
    return bool(await listed(database, "listCollections", filter={"name": name}))


async def create_events(database: Database, name: str = EVENTS) -> None:
    """Create a collection for events, unless it exists."""
    await create(database, {"create": name, "clusteredIndex": CLUSTERED, "validator": VALIDATOR})


async def keep_layout_1_out(database: Database) -> bool:
    """Make `probes` a view, so that no Sluice of layout 1 starts. Returns whether it was none.

    It shows the version, for those who look why. Raises ConfigurationError if the user of the database may not.
    """
    was_view = True
    while True:
        found = await listed(database, "listCollections", filter={"name": OLD_PROBES})
        if found and found[0]["type"] == "view":
            return not was_view
        was_view = False
        if found:
            await database[OLD_PROBES].drop()
        await create_view(database, OLD_PROBES, META, [])


async def create_view(database: Database, name: str, view_on: str, pipeline: list[Document]) -> None:
    """Create a view, unless one of its name exists. Raises ConfigurationError if the user of the database may not."""
    try:
        await create(database, {"create": name, "viewOn": view_on, "pipeline": pipeline})
    except OperationFailure as error:
        if error.code == UNAUTHORIZED:  # a user of its own role may have all other rights
            raise ConfigurationError(CANNOT_CREATE_VIEWS) from None
        raise


async def create(database: Database, command: Document) -> None:
    """Run a command that creates a collection or view, unless one of its name exists: another process was first."""
    try:
        await database.command(command)
    except OperationFailure as error:
        if error.code != NAMESPACE_EXISTS:
            raise


async def save_layout(database: Database) -> None:
    """Save that the database has this layout."""
    await database[META].replace_one({"_id": LAYOUT_ID}, {"version": LAYOUT}, upsert=True)
