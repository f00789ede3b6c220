"""The list of collections that hold data of tenants, and the query for what one tenant has in each.

A new collection must be named here (`tests/unit/test_tenant_data.py`). Else a deleted tenant would leave data behind.
"""

from uuid import UUID

from bson.binary import Binary
from bson.max_key import MaxKey

from storage.commands import Document
from storage.indexes import (
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
    USAGE,
    VOLUMES,
    WEBHOOKS,
)
from storage.layout import TOO_LARGE_EVENTS
from storage.removal import Part

BY_ID = (RULES, RULE_RESULTS, ALERTS, WEBHOOKS, DELIVERIES, EVENTS, CATALOG, REJECTIONS, USAGE, VOLUMES)
"""Collections in which `_id` is an object that begins with `tenant_id`: what a tenant has is a range.

They are removed in this order. What is evaluated meanwhile is stored only if its rule is still there, and webhooks are
told of alerts that are still there.
"""

BY_FIELD = (IDEMPOTENCY_RECORDS, TOO_LARGE_EVENTS, KEYS)
"""Collections with a field `tenant_id`, which is compared in all documents. `keys` has the rate limits too."""

OF_NO_TENANT = (LEASES, META, PRESENCE, PROBES)
"""Collections that hold nothing of tenants."""


def parts_of(tenant_id: UUID) -> list[Part]:
    """All that a tenant has, but for its view and its document in `tenants`."""
    own: Document = {"tenant_id": Binary.from_uuid(tenant_id)}
    within = {"$gte": own, "$lt": {**own, "": MaxKey()}}  # MaxKey is above all values, whatever the field is called
    ranges = [Part(collection, within, {}) for collection in BY_ID]
    return [*ranges, *(Part(collection, {}, own) for collection in BY_FIELD)]
