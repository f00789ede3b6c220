"""Names the collections, and creates their indexes: at start, and whenever one is found missing.

The events have none: their collection is clustered (`layout.py`). An index costs much. Measured at 1,000 events a call
with two writers, one for lists lowered the rate to 0.86, and two more, on source and on event_type, to 0.55.
"""

from typing import Any, NamedTuple

from pymongo.errors import OperationFailure

from server.core.deadline import Deadline
from server.core.errors import ConfigurationError
from storage.commands import Database, Document, listed, time_limit
from storage.failures import UNAUTHORIZED

ALERTS = "alerts"
CATALOG = "event_types"
DELIVERIES = "deliveries"
EVENTS = "events"
IDEMPOTENCY_RECORDS = "claims"
"""The collection keeps its older name, since data is stored under it."""

KEYS = "keys"
LEASES = "leases"
META = "meta"
PRESENCE = "presence"
PROBES = "write_probes"
REJECTIONS = "rejections"
RULE_RESULTS = "rule_results"
RULES = "rules"
TENANTS = "tenants"
USAGE = "usage"
VOLUMES = "volumes"
WEBHOOKS = "webhooks"

COLLECTIONS = (
    ALERTS,
    CATALOG,
    DELIVERIES,
    EVENTS,
    IDEMPOTENCY_RECORDS,
    KEYS,
    LEASES,
    META,
    PRESENCE,
    PROBES,
    REJECTIONS,
    RULE_RESULTS,
    RULES,
    TENANTS,
    USAGE,
    VOLUMES,
    WEBHOOKS,
)

OTHER_DATABASE = "or give another --database"


DESCRIPTION = ("v", "key", "name", "ns", "background")
"""What `listIndexes` says of an index beside its options."""

CANNOT_CREATE = {
    UNAUTHORIZED: "grant the user in --mongodb-url the role readWrite on this database",
    67: f"MongoDB refuses it (CannotCreateIndex): rename the collection, {OTHER_DATABASE}",
    85: f"another index is in the way (IndexOptionsConflict): drop that one, {OTHER_DATABASE}",
    86: f"another index is in the way (IndexKeySpecsConflict): drop that one, {OTHER_DATABASE}",
    11000: f"documents of the collection have the same value: rename the collection, {OTHER_DATABASE}",
}
"""MongoDB's codes of errors that only the operator can fix, and how."""


class Index(NamedTuple):
    """An index that Sluice needs."""

    collection: str
    name: str
    keys: dict[str, int]
    options: dict[str, Any]


PRESENCE_KEPT_S = 40 * 24 * 60 * 60
"""How long it is known that Sluice was there: longer than the longest window of a rule."""

PENDING: Document = {"due_at": {"$exists": True}}
"""What deliveries that are to be sent have: few of all."""

COUNT_OF_TYPE = {"_id.tenant_id": 1, "_id.event_type": 1, "_id.minute": 1, "_id.source": 1, "n": 1}
"""By these, rules find the counts of their event type, while `_id` begins with the minute."""

INDEXES = (
    Index(KEYS, "hash_1", {"hash": 1}, {"unique": True}),
    Index(KEYS, "previous.hash_1", {"previous.hash": 1}, {"sparse": True}),
    Index(KEYS, "window.until_1", {"window.until": 1}, {"sparse": True}),
    Index(ALERTS, "rule_id_1", {"rule_id": 1}, {"unique": True, "partialFilterExpression": {"is_open": True}}),
    Index(
        DELIVERIES,
        "due_at_1_webhook_id_1__id.tenant_id_1",
        {"due_at": 1, "webhook_id": 1, "_id.tenant_id": 1},
        {"partialFilterExpression": PENDING},
    ),
    Index(DELIVERIES, "subject_1_webhook_id_1", {"subject": 1, "webhook_id": 1}, {"partialFilterExpression": PENDING}),
    Index(DELIVERIES, "webhook_id_1__id_1", {"webhook_id": 1, "_id": 1}, {}),
    Index(DELIVERIES, "expires_at_1", {"expires_at": 1}, {"expireAfterSeconds": 0}),
    Index(PRESENCE, "until_1", {"until": 1}, {"expireAfterSeconds": PRESENCE_KEPT_S}),
    Index(REJECTIONS, "expires_at_1", {"expires_at": 1}, {"expireAfterSeconds": 0}),
    Index(RULES, "tenant_id_1_name_1", {"_id.tenant_id": 1, "name": 1}, {"unique": True}),
    Index(RULE_RESULTS, "expires_at_1", {"expires_at": 1}, {"expireAfterSeconds": 0}),
    Index(USAGE, "expires_at_1", {"expires_at": 1}, {"expireAfterSeconds": 0}),
    Index(VOLUMES, "expires_at_1", {"expires_at": 1}, {"expireAfterSeconds": 0}),
    Index(VOLUMES, "count_of_type", COUNT_OF_TYPE, {}),
    Index(WEBHOOKS, "tenant_id_1_name_1", {"_id.tenant_id": 1, "name": 1}, {"unique": True}),
)

IS_KEY: Document = {"hash": {"$type": "binData"}, "tenant_id": {"$type": "binData"}, "scopes": {"$type": "string"}}
"""What every document of a key has."""


async def check_collections(database: Database) -> None:
    """Raises ConfigurationError if a collection of Sluice's name is of another kind, and the driver's errors."""
    for collection in await listed(database, "listCollections", filter={"name": {"$in": list(COLLECTIONS)}}):
        check_collection(collection)


async def ensure_indexes(database: Database) -> list[str]:
    """Create the indexes that do not exist yet. Returns their names.

    Raises ConfigurationError if another index or a document is in the way, and the driver's errors.
    """
    created = []
    for index in INDEXES:
        with time_limit(Deadline()):
            if await exists(database, index):
                continue
            if index.collection == KEYS:
                await check_keys(database)
        await create(database, index)
        created.append(f"{index.collection}.{index.name}")
    return created


def check_collection(collection: Any) -> None:
    """Raises ConfigurationError if a collection of Sluice's name, as `listCollections` shows it, is of another kind."""
    kind = "capped" if collection.get("options", {}).get("capped") else collection["type"]
    if kind != "collection":
        kinds = {"view": "a view", "timeseries": "a time series", "capped": "a capped collection"}
        raise ConfigurationError(
            f"{collection['name']!r} in the database is {kinds.get(kind, kind)}, and Sluice needs a usual collection: "
            f"drop or rename it, {OTHER_DATABASE}"
        )


async def exists(database: Database, index: Index) -> bool:
    """Whether an index exists. Raises ConfigurationError if another has its name, or its keys and another name."""
    if not await listed(database, "listCollections", filter={"name": index.collection}):
        return False
    for found in await listed(database, "listIndexes", index.collection):
        has_keys, has_name = list(found["key"].items()) == list(index.keys.items()), found["name"] == index.name
        options = {option: value for option, value in found.items() if option not in DESCRIPTION}
        if has_keys and has_name and options == index.options:
            return True
        if has_keys or has_name:
            raise ConfigurationError(
                f"the index {found['name']!r} of the collection {index.collection!r} is in the way of Sluice's own "
                f"index {index.name!r}: drop it, {OTHER_DATABASE}"
            )
    return False


async def create(database: Database, index: Index) -> None:
    """Create an index, without a time limit: that of a large collection takes minutes."""
    try:
        await database[index.collection].create_index(list(index.keys.items()), name=index.name, **index.options)
    except OperationFailure as error:
        if error.code not in CANNOT_CREATE:
            raise
        raise ConfigurationError(
            f"the index {index.name!r} of the collection {index.collection!r} cannot be made: "
            f"{CANNOT_CREATE[error.code]}"
        ) from None


async def check_keys(database: Database) -> None:
    """Raises ConfigurationError if the collection of keys has documents that are no keys."""
    if await database[KEYS].find_one({"$nor": [IS_KEY]}, {"_id": 1}) is not None:
        raise ConfigurationError(
            f"the collection {KEYS!r} of the database has documents that are not Sluice's: "
            f"rename the collection, {OTHER_DATABASE}"
        )
