"""A replica set of three under load, of which members step down, crash and hang: what was acknowledged is there.

Set SLUICE_LONG=1 for both drivers.
"""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.grpc_client import channel_to, details_of, ingest, marks_stored_once
from tests.support.harness import Json, MongoClient, Server, is_stopped, wait_until
from tests.support.load import LoadClients, RestLoad, StreamLoad
from tests.support.logs import assert_no_internal_errors
from tests.support.metrics import check_scrape, scrape
from tests.support.mongod import Mongod, ReplicaSet
from tests.support.relay import Relay

LONG = "SLUICE_LONG" in os.environ

NO_DATABASE = "the database takes no writes"
"""What the log says when the driver finds no primary."""


def wait_for_acknowledgements(*loads: LoadClients) -> None:
    """Wait until each load has 200 more acknowledgements."""
    reached = [len(load.acknowledged_marks) + 200 for load in loads]
    wait_until(
        lambda: all(len(load.acknowledged_marks) > count for load, count in zip(loads, reached, strict=True)),
        "acknowledgements",
        60,
    )


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["motor", "pymongo"] if LONG else ["motor"])
def test_what_was_acknowledged_outlives_elections_and_a_lost_majority(tmp_path: Path, driver: str) -> None:
    with (
        ReplicaSet(tmp_path / "db") as replicas,
        replicas.client() as mongo,
        Server(
            *(tmp_path / "data", "--workers", "2", "--metrics-port", "0"),
            *("--mongodb-url", replicas.url, "--driver", driver),
        ) as server,
    ):
        key, other = [server.create_key(tenant, "--rate-limit", "0") for tenant in ("rest", "grpc")]
        with (
            RestLoad(server, key["key"], clients=6, events=5) as load,
            StreamLoad(server.grpc, other["key"], streams=4) as streams,
        ):
            wait_for_acknowledgements(load, streams)
            for _ in range(2):
                replicas.step_down()
                wait_for_acknowledgements(load, streams)
            killed = replicas.primary()
            killed.kill()
            wait_for_acknowledgements(load, streams)
            killed.launch()
            replicas.wait_until_complete()
            wait_for_acknowledgements(load, streams)
            hang_majority(replicas, load, streams)
            wait_for_acknowledgements(load, streams)
        with channel_to(server.grpc) as channel:
            assert ingest(channel, server.first_key).events_received == 1
        assert load.unanswered == 0
        assert load.bad_rejections == []
        assert set(load.statuses) == {201, 503}
        assert streams.endings == [None] * 4
        assert streams.errors
        for error in streams.errors:
            details = details_of(error)
            assert details["ErrorInfo"].reason == "UNAVAILABLE"
            assert details["RetryInfo"].retry_delay.seconds >= 1
        check(mongo, key, load)
        check(mongo, other, streams)
        check_metrics(server, mongo)
        assert_no_internal_errors(server)


def hang_majority(replicas: ReplicaSet, load: RestLoad, streams: StreamLoad) -> None:
    """Freeze both secondaries for a while. What is sent meanwhile is not acknowledged, and requests are rejected."""
    primary = replicas.primary()
    secondaries = [node for node in replicas.nodes if node is not primary]
    for node in secondaries:
        node.process.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: all(is_stopped(node.process.pid) for node in secondaries), "frozen secondaries")
        firsts = [(each, each.next_mark()) for each in (load, streams)]  # a majority may have what was sent before
        rejected, errors = load.statuses[503], len(streams.errors)
        wait_until(lambda: load.statuses[503] > rejected and len(streams.errors) > errors, "rejections")
        assert [each.acknowledged_from(first) for each, first in firsts] == [[], []]
    finally:
        for node in secondaries:
            node.process.send_signal(signal.SIGCONT)


def check_metrics(server: Server, mongo: MongoClient) -> None:
    """Both workers have seen three elections, and what they counted is what the database holds."""
    now = scrape(server.metrics)
    check_scrape(now, None)
    assert now.total("sluice_database_primary_changes_total") >= 2 * 3
    stored, unknown = (int(now.total(f"sluice_events_{outcome}_total")) for outcome in ("stored", "unknown"))
    assert stored <= mongo.sluice.events.count_documents({}) <= stored + unknown


def check(mongo: MongoClient, key: Json, load: LoadClients) -> None:
    """All acknowledged events are stored, each once, and no event that was not sent."""
    stored = marks_stored_once(mongo, key)
    assert load.acknowledged_marks <= stored <= load.sent


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["motor", "pymongo"] if LONG else ["motor"])
def test_of_a_batch_of_which_a_part_is_stored_the_outcome_is_unknown(tmp_path: Path, driver: str) -> None:
    """A batch of over 15 MiB takes two commands, and the database is lost between them."""
    large = {"source": "s", "events": [{"type": "t", "data": {"a": [1] * 4_000}} for _ in range(600)]}
    with (
        Mongod(tmp_path / "db") as mongod,
        mongod.client() as mongo,
        Relay(mongod.url, cut_after=10 * 1024 * 1024) as relay,
        Server(tmp_path / "data", "--mongodb-url", relay.url, "--driver", driver) as server,
        ThreadPoolExecutor(1) as threads,
    ):
        key = server.create_key("acme", "--rate-limit", "0")
        with server.client(key["key"]) as client:
            response = threads.submit(client.post, "/api/v1/events", json=large)
            assert relay.is_cut.wait(30)
            wait_until(lambda: NO_DATABASE in server.stderr(), "the driver to notice")
            relay.release()
            rejected = response.result().json()
        assert 0 < mongo.sluice.events.count_documents({}) < 600
    assert (rejected["code"], rejected["outcome"]) == ("unavailable", "unknown")
