"""Rules and random events, for the tests of what is measured. They have few names, so paths often lead to values."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from time import time_ns
from typing import Any
from uuid import UUID, uuid4

from bson.binary import Binary
from bson.raw_bson import RawBSONDocument
from hypothesis import strategies as st
from pymongo import UpdateOne

from server.core.events.ids import BatchIds, new_ids
from server.core.events.model import BatchInfo, Event
from server.core.rules.config import parse_config
from server.core.rules.model import Rule, RuleType
from server.core.rules.offline import OfflineEvent
from server.core.times import from_milliseconds
from storage.documents import encode
from tests.support.harness import MongoClient

MINUTE_MS = 60_000
END_MS = time_ns() // 1_000_000 // MINUTE_MS * MINUTE_MS - 24 * 60 * MINUTE_MS
"""A whole minute, at which windows end. It is a day ago: MongoDB removes what was measured 92 days after its minute."""

PATHS = ("a", "b", "a.a", "a.b", "b.a", "a.b.a", "$c", "a.$c", "b.$c.a", "_id")
TYPES = ("string", "integer", "number", "boolean", "object", "array", "null")
NAMES = st.sampled_from(["a", "b", "$c", "_id", "a.b"])
NUMBERS = st.integers(-5, 5) | st.sampled_from([0.5, -2.25, 3.0, 2**40, -(2**62)])
VALUES = st.recursive(
    NUMBERS | st.sampled_from([None, True, False, "", "text"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
DATA = st.dictionaries(NAMES, VALUES, max_size=3)
EVENT_TYPES = st.sampled_from(["view", "order"])
SOURCES = st.sampled_from(["web", "app"])
AGES_MS = st.integers(0, 90) | st.integers(0, 4 * 60 * MINUTE_MS).map(lambda age: age // 1_000 * 1_000)
"""How long before `END_MS` an event was received: often within some milliseconds, or at a whole minute."""

EVENTS = st.lists(st.tuples(AGES_MS, SOURCES, EVENT_TYPES, DATA), max_size=12)

MINUTES = st.integers(1, 150)
COMMON = {"event_type": EVENT_TYPES}
OPTIONAL = {"source": SOURCES}

CONFIGS: dict[RuleType, st.SearchStrategy[dict[str, Any]]] = {
    "threshold": st.fixed_dictionaries(
        {
            **COMMON,
            "field": st.sampled_from(PATHS),
            "aggregate": st.sampled_from(["avg", "min", "max", "sum"]),
            "operator": st.sampled_from([">", "<", ">=", "<=", "=="]),
            "value": st.integers(-4, 4) | st.just(0.5),
            "window_minutes": MINUTES,
        },
        optional=OPTIONAL,
    ),
    "missing_field": st.fixed_dictionaries(
        {
            **COMMON,
            "required_fields": st.lists(st.sampled_from(PATHS), min_size=1, max_size=4, unique=True),
            "window_minutes": MINUTES,
        },
        optional=OPTIONAL,
    ),
    "volume": st.fixed_dictionaries(
        {
            **COMMON,
            "threshold_percent": st.just(-50),
            "current_window_minutes": MINUTES,
            "comparison_window_hours": st.integers(1, 3),
        },
        optional=OPTIONAL,
    ),
    "freshness": st.fixed_dictionaries({**COMMON, "max_age_minutes": MINUTES}, optional=OPTIONAL),
    "schema": st.fixed_dictionaries(
        {
            **COMMON,
            "fields": st.dictionaries(
                st.sampled_from(PATHS),
                st.sampled_from(TYPES) | st.lists(st.sampled_from(TYPES), min_size=1, max_size=3),
                min_size=1,
                max_size=4,
            ),
            "allow_unknown": st.booleans(),
            "window_minutes": MINUTES,
        },
        optional=OPTIONAL,
    ),
}

COUNT_CONFIGS = st.fixed_dictionaries(
    {
        **COMMON,
        "field": st.just("count"),
        "operator": st.just(">"),
        "value": st.just(3),
        "window_minutes": MINUTES,
    },
    optional=OPTIONAL,
)


def rule_of(rule_type: RuleType, config: dict[str, Any], evaluated_until_ms: int = END_MS - MINUTE_MS) -> Rule:
    """A rule with this configuration."""
    now = datetime.now(UTC)
    return Rule(
        id=uuid4(),
        tenant_id=UUID(int=0),
        name="rule",
        rule_type=rule_type,
        config=parse_config(rule_type, config),
        created_at=now,
        updated_at=now,
        evaluated_until_ms=evaluated_until_ms,
    )


RULES = st.one_of(
    *(st.builds(rule_of, st.just(kind), configs) for kind, configs in CONFIGS.items()),
    st.builds(rule_of, st.just("threshold"), COUNT_CONFIGS),
)


def new_tenant(mongo: MongoClient) -> UUID:
    """A tenant without keys."""
    tenant_id = uuid4()
    mongo.sluice.tenants.insert_one({"_id": f"measured-{tenant_id}", "tenant_id": Binary.from_uuid(tenant_id)})
    return tenant_id


def store(
    mongo: MongoClient, tenant_id: UUID, drawn: Sequence[tuple[int, str, str, dict[str, Any]]]
) -> list[OfflineEvent]:
    """Store events, each with its age, source, type and data. Returns them as they are measured offline."""
    documents, events = [], []
    for age_ms, source, event_type, data in drawn:
        received_at_ms = END_MS - age_ms
        ids: BatchIds = new_ids(received_at_ms, 1)
        info = BatchInfo(tenant_id, source, None, received_at_ms)
        documents += [RawBSONDocument(each) for each in encode(info, ids.binary, [Event(event_type, data)], [None])]
        events.append(OfflineEvent(ids.text[0], received_at_ms, source, event_type, data))
    if documents:
        random.shuffle(documents)
        mongo.sluice.events.insert_many(documents)
        mongo.sluice.event_types.bulk_write([seen(tenant_id, event) for event in events], ordered=False)
    return events


def seen(tenant_id: UUID, event: OfflineEvent) -> UpdateOne:
    """The update that notes an event in the catalog."""
    own_id = {"tenant_id": tenant_id, "source": event.source, "event_type": event.event_type}
    return UpdateOne({"_id": own_id}, {"$min": {"first_seen": from_milliseconds(event.received_at_ms)}}, upsert=True)
