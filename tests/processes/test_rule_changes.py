"""A rule is changed while its evaluation is applied: the change stays, and each due time has one result.

The old rule never fires and the new one does. So a result tells which of the two it is of.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid4

import httpx
import pytest

from server.core.times import MS_PER_S
from tests.support.evaluations import COUNT, RULES, check_alerts, check_due_times, create_rule, results_of
from tests.support.harness import Json, MongoClient, Server, wait_until
from tests.support.mongod import Mongod, block_next, block_next_insert

INTERVAL_S = 1

AGE_S = 20
"""Longer than it takes until a minute is complete."""

HANG_MS = 1_500
"""Shorter than a change waits for an evaluation."""

CHANGE: Json = {"config": {**COUNT, "operator": ">=", "value": 0}, "severity": "critical"}

UNBLOCKED_S = 40
"""A lease, and what another worker then needs to end the transaction of one that was killed."""

HANGS: dict[str, Callable[[MongoClient], Callable[[], object]]] = {
    "insert": lambda mongo: block_next_insert(mongo, "rule_results", HANG_MS),
    "commit": lambda mongo: block_next(mongo, "commitTransaction", HANG_MS, appName="sluice"),
}
"""Where the next evaluation hangs while it is applied."""


@pytest.mark.parametrize("hang", HANGS.values(), ids=HANGS)
def test_a_change_while_an_evaluation_is_applied(
    mongod: Mongod, tmp_path: Path, hang: Callable[[MongoClient], Callable[[], object]]
) -> None:
    with mongod.client() as mongo, Server(tmp_path, *options(mongod)) as server, old_rule(server, mongo) as rule:
        until_it_hangs = hang(mongo)
        until_it_hangs()
        before = len(results_of(mongo, rule.id))
        assert rule.client.patch(rule.path, json=CHANGE).status_code == 200
        check_change(mongo, rule, fewest=before + 1)


@pytest.mark.long
def test_a_change_after_a_kill_while_an_evaluation_is_applied(mongod: Mongod, tmp_path: Path) -> None:
    """The transaction of the killed worker stays open until another one evaluates. Until then, changes are refused."""
    with (
        mongod.client() as mongo,
        Server(tmp_path, *options(mongod), "--workers", "2") as server,
        old_rule(server, mongo) as rule,
    ):
        block_next_insert(mongo, "rule_results", HANG_MS)()
        before = len(results_of(mongo, rule.id))
        os.kill(evaluating_worker(mongo), signal.SIGKILL)
        wait_until(lambda: is_changed(rule), "the change", UNBLOCKED_S)
        check_change(mongo, rule, fewest=before)


class OldRule(NamedTuple):
    """A rule that is evaluated, and a client of its tenant."""

    client: httpx.Client
    id: str

    @property
    def path(self) -> str:
        """Where it is."""
        return f"{RULES}/{self.id}"


@contextmanager
def old_rule(server: Server, mongo: MongoClient) -> Iterator[OldRule]:
    """A rule as if it had been made AGE_S ago, so that it is due at once. It has a result."""
    key = server.create_key(f"tenant-{uuid4().hex}", "--rate-limit", "0")
    rule_id = create_rule(server, key)["id"]
    made_at = datetime.now(UTC) - timedelta(seconds=AGE_S)
    change = {"created_at": made_at, "evaluated_until": made_at}
    mongo.sluice.rules.update_one({"_id.id": UUID(rule_id)}, {"$set": change})
    with server.client(key["key"]) as client:
        wait_until(lambda: results_of(mongo, rule_id), "a result")
        yield OldRule(client, rule_id)
        assert client.delete(f"{RULES}/{rule_id}").status_code == 204


def options(mongod: Mongod) -> tuple[str, ...]:
    """The options of the server."""
    return ("--mongodb-url", mongod.url, "--rules-interval", f"{INTERVAL_S}s")


def evaluating_worker(mongo: MongoClient) -> int:
    """The process id of the worker that holds the lease."""
    lease = mongo.sluice.leases.find_one({"_id": "rules"})
    assert lease is not None
    return int(lease["holder"].split(":")[-2])


def is_changed(rule: OldRule) -> bool:
    """Try to change a rule. Returns whether it was changed; otherwise the server must say that it was not."""
    try:
        response = rule.client.patch(rule.path, json=CHANGE)
    except httpx.TransportError:  # the connection was to the worker that was killed
        return False
    assert response.status_code in {200, 503}, response.text
    return response.status_code == 200


def check_change(mongo: MongoClient, rule: OldRule, fewest: int) -> None:
    """A change that was just made is kept. The old rule has `fewest` results or more, none of them after the change."""
    most = len(results_of(mongo, rule.id))
    wait_until(lambda: len(results_of(mongo, rule.id)) >= most + 2, "results of the changed rule")
    shown = rule.client.get(rule.path).json()
    assert (shown["severity"], shown["config"]["value"]) == ("critical", 0)
    results = check_due_times(mongo, rule.id, INTERVAL_S * MS_PER_S)
    states = [result["state"] for result in results]
    old = states.count("inactive")
    assert states == ["inactive"] * old + ["firing"] * (len(states) - old)
    assert fewest <= old <= most
    assert check_alerts(mongo, rule.id, results) == ["alert.opened"]
