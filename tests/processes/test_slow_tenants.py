"""A tenant whose rules take the database long is evaluated late, and no other tenant is."""

import itertools
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from server.core.alerts.lanes import LIMITS_S
from server.core.events.ids import new_ids
from server.core.events.model import BatchInfo, Event
from server.core.rules.windows import COMPLETE_AFTER_MS
from server.core.times import MS_PER_S
from storage.documents import encode
from tests.support.evaluations import create_rule, lateness_ms, results_of
from tests.support.harness import Json, MongoClient, Server, wait_until
from tests.support.many_events import insert_encoded

INTERVAL_S = 1

SLOW_EVENTS = 8_000
"""Of 2 ms each, and more on a busy machine."""

ITEMS = {"a": [{"b": [{"n0": 1}] * 10}] * 10}

MANY_PATHS: Json = {
    "event_type": "purchase",
    "required_fields": [f"a.b.n{number}" for number in range(100)],
    "window_minutes": 60,
}

QUICK_MS = LIMITS_S["quick"] * MS_PER_S


def test_a_slow_tenant_delays_no_other(tmp_path: Path) -> None:
    with Server(tmp_path, "--rules-interval", f"{INTERVAL_S}s", "--workers", "1") as server, server.mongo() as mongo:
        slow, other = (server.create_key(name, "--rate-limit", "0") for name in ("slow", "other"))
        insert_slow_events(mongo, slow)
        slow_rule = create_rule(server, slow, rule_type="missing_field", config=MANY_PATHS)["id"]
        light_rule = create_rule(server, slow, name="light")["id"]
        rule = create_rule(server, other)["id"]
        ago = timedelta(milliseconds=COMPLETE_AFTER_MS, seconds=INTERVAL_S)
        mongo.sluice.rules.update_many({}, {"$set": {"evaluated_until": datetime.now(UTC) - ago}})  # due at once
        wait_until(lambda: results_of(mongo, light_rule), "what is quick of the slow tenant is evaluated")
        known = len(results_of(mongo, rule))
        assert known >= LIMITS_S["quick"] // INTERVAL_S - 1
        wait_until(lambda: len(results_of(mongo, rule)) >= known + 2, "the other tenant is evaluated")
        assert max(map(lateness_ms, results_of(mongo, rule)[1:])) < QUICK_MS / 2
        assert results_of(mongo, slow_rule) == [], "it is still being evaluated"
        assert len(results_of(mongo, light_rule)) == 1
        check_due_times_since(mongo, rule)


def insert_slow_events(mongo: MongoClient, key: Json) -> None:
    """Insert purchases which a rule takes long to look through."""
    received_ms = time.time_ns() // 1_000_000 - 5 * 60 * MS_PER_S
    info = BatchInfo(UUID(key["tenant_id"]), "backend", None, received_ms)
    for _ in range(SLOW_EVENTS // 500):
        encoded = encode(info, new_ids(received_ms, 500).binary, [Event("purchase", ITEMS)] * 500, [None] * 500)
        insert_encoded(mongo, encoded)


def check_due_times_since(mongo: MongoClient, rule_id: str) -> None:
    """None is missing after the first one."""
    ends = [each["_id"]["end"] for each in results_of(mongo, rule_id)]
    assert {later - earlier for earlier, later in itertools.pairwise(ends)} == {timedelta(seconds=INTERVAL_S)}
