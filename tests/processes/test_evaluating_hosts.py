"""The short form of `python -m tests.monitoring`: two hosts evaluate each due time once, whoever is killed."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from server.core.events.ids import new_ids
from server.core.events.model import BatchInfo, Event
from server.core.times import MS_PER_S
from storage.documents import encode
from tests.monitoring import chaos
from tests.support.evaluations import COUNT, check_due_times, count_events, create_rule, due_ms, results_of
from tests.support.harness import Json, MongoClient, Server, batch, wait_until
from tests.support.many_events import insert_encoded
from tests.support.mongod import Mongod

LONG = bool(os.environ.get("SLUICE_LONG"))

INTERVAL_S = 12

INTERVALS = 10
"""Of an outage."""

OUTAGE_S = INTERVALS * INTERVAL_S + 5
"""It has a whole minute, in which there is no event."""

SEND_S = 0.5

MINUTE_S = 60


@pytest.mark.slow
def test_each_due_time_has_one_result_whoever_is_killed(tmp_path: Path) -> None:
    kills, freezes, step_downs = (30, 2, 5) if LONG else (1, 0, 0)
    figures = chaos.run(tmp_path, kills=kills, freezes=freezes, step_downs=step_downs, results=300 if LONG else 45)
    print(figures.line())  # noqa: T201 (for `pytest -s`)


@pytest.mark.long
def test_an_outage_of_ten_intervals_changes_no_alert(mongod: Mongod, tmp_path: Path) -> None:
    """One rule fires, since there were purchases. The other would fire if there were none for a minute."""
    options = ("--mongodb-url", mongod.url, "--rules-interval", f"{INTERVAL_S}s")
    with mongod.client() as mongo, Server(tmp_path, *options) as server:
        key = server.create_key("acme", "--rate-limit", "0")
        insert_purchases(mongo, key, 4 * MINUTE_S)
        with purchases(server, key):
            firing = create_rule(server, key, name="any", config={**COUNT, "value": 0, "window_minutes": 60})["id"]
            resting = create_rule(server, key, name="none", config={**COUNT, "operator": "<=", "value": 0})["id"]
            wait_until(
                lambda: results_of(mongo, firing) and results_of(mongo, resting), "results before the outage", 60
            )
            mongod.kill()
            time.sleep(OUTAGE_S)
            mongod.start()
            reached = time.time() + 2 * MINUTE_S
            wait_until(
                lambda: due_ms(results_of(mongo, resting)[-1]) > reached * MS_PER_S,
                "results after the outage",
                3 * MINUTE_S,
            )
        assert server.stop() == 0
        results = {rule: check_due_times(mongo, rule, INTERVAL_S * MS_PER_S) for rule in (firing, resting)}
        for rule, state in ((firing, "firing"), (resting, "inactive")):
            states = [result["state"] for result in results[rule]]
            errors = states.count("error")
            assert errors >= INTERVALS
            before = states.index("error")
            assert states == [state] * before + ["error"] * errors + [state] * (len(states) - before - errors)
            assert states[-1] == state
        windows = [(each["window_start"], each["window_end"]) for each in results[resting] if each["state"] == "error"]
        assert 0 in {count_events(mongo, key["tenant_id"], *window) for window in windows}, "nothing to be silent about"
        assert ["is_open" in alert for alert in mongo.sluice.alerts.find()] == [True]


def insert_purchases(mongo: MongoClient, key: Json, seconds: int) -> None:
    """Insert a purchase for each of the seconds before now."""
    for second in range(seconds):
        received_ms = round((time.time() - second) * MS_PER_S)
        info = BatchInfo(UUID(key["tenant_id"]), "backend", None, received_ms)
        encoded = encode(info, new_ids(received_ms, 1).binary, [Event("purchase", {})], [None])
        insert_encoded(mongo, encoded)


@contextmanager
def purchases(server: Server, key: Json) -> Iterator[None]:
    """Send purchases inside. What the server does not take, it does not take."""
    ended = threading.Event()

    def send() -> None:
        with server.client(key["key"]) as client:
            while not ended.wait(SEND_S):
                with suppress(httpx.HTTPError):
                    client.post("/api/v1/events", json=batch())

    with ThreadPoolExecutor() as threads:
        sending = threads.submit(send)
        try:
            yield
        finally:
            ended.set()
        sending.result()
