"""The short form of `python -m tests.monitoring`: two hosts evaluate each due time once, whoever is killed."""

import os
import time
from pathlib import Path
from uuid import UUID

import pytest

from server.core.events.ids import new_ids
from server.core.events.model import BatchInfo, Event
from server.core.times import MS_PER_S
from storage.documents import encode
from tests.monitoring import chaos
from tests.support.evaluations import COUNT, check_due_times, create_rule, due_ms, results_of
from tests.support.harness import Json, MongoClient, Server, batch, wait_until
from tests.support.many_events import insert_encoded
from tests.support.mongod import Mongod

LONG = bool(os.environ.get("SLUICE_LONG"))

INTERVAL_S = 3

INTERVALS = 10
"""Of an outage."""

OUTAGE_S = INTERVALS * INTERVAL_S + 5

MINUTE_S = 60


@pytest.mark.slow
def test_each_due_time_has_one_result_whoever_is_killed(tmp_path: Path) -> None:
    kills, freezes, step_downs = (30, 2, 5) if LONG else (1, 0, 1)
    figures = chaos.run(tmp_path, kills=kills, freezes=freezes, step_downs=step_downs, results=300 if LONG else 60)
    print(figures.line())  # noqa: T201 (for `pytest -s`)


@pytest.mark.long
def test_an_outage_of_ten_intervals_changes_no_alert(mongod: Mongod, tmp_path: Path) -> None:
    """One rule fires, since there were purchases. The other would fire if there were none for a minute."""
    options = ("--mongodb-url", mongod.url, "--rules-interval", f"{INTERVAL_S}s")
    with mongod.client() as mongo, Server(tmp_path, *options) as server:
        key = server.create_key("acme", "--rate-limit", "0")
        with server.client(key["key"]) as client:
            client.post("/api/v1/events", json=batch()).raise_for_status()
        insert_purchases(mongo, key, -4 * MINUTE_S, 30)
        firing = create_rule(server, key, name="any", config={**COUNT, "value": 0, "window_minutes": 60})["id"]
        resting = create_rule(server, key, name="none", config={**COUNT, "operator": "<=", "value": 0})["id"]
        wait_until(lambda: {each["state"] for each in results_of(mongo, firing)} == {"firing"}, "the rule to fire", 30)
        mongod.kill()
        time.sleep(OUTAGE_S)
        mongod.start()
        insert_purchases(mongo, key, 0, 4 * MINUTE_S)
        reached = time.time() + MINUTE_S
        wait_until(
            lambda: due_ms(results_of(mongo, resting)[-1]) > reached * MS_PER_S,
            "results after the outage",
            2 * MINUTE_S,
        )
        assert server.stop() == 0
        states = {rule: check_due_times(mongo, rule, INTERVAL_S * MS_PER_S) for rule in (firing, resting)}
        assert {each["state"] for each in states[firing]} == {"firing", "error"}
        assert {each["state"] for each in states[resting]} == {"inactive", "error"}
        assert sum(each["state"] == "error" for each in states[firing]) >= INTERVALS
        assert ["is_open" in alert for alert in mongo.sluice.alerts.find()] == [True]


def insert_purchases(mongo: MongoClient, key: Json, since_s: int, until_s: int) -> None:
    """Insert a purchase for each second from now, in seconds."""
    for second in range(since_s, until_s):
        received_ms = round((time.time() + second) * MS_PER_S)
        info = BatchInfo(UUID(key["tenant_id"]), "backend", None, received_ms)
        encoded = encode(info, new_ids(received_ms, 1).binary, [Event("purchase", {})], [None])
        insert_encoded(mongo, encoded)
