"""Looks for scripted anomalies with rules, offline and on a server: `histories.py` draws them.

Offline, `sluice rules test` evaluates the rule of each history up to the window in which an alert must open. For the
server, the histories are stored with ids of the past, and the rules are set back to when they begin. So when it starts,
its evaluation job has missed all due times since then, and does them one by one.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import time
from typing import NamedTuple
from uuid import UUID

from server.cli.monitoring.rule_tests import run_tests
from server.core.events.ids import new_ids
from server.core.events.model import BatchInfo, Event
from server.core.rules.schedule import last_due
from server.core.times import MS_PER_S, format_time, from_milliseconds
from storage.documents import encode
from tests.monitoring.histories import KINDS, History, RuleType, draw
from tests.monitoring.timeline import INTERVAL_MS, SPARE_INTERVALS
from tests.support.evaluations import RULES, check_alerts, due_ms, results_of
from tests.support.harness import Json, MongoClient, Server, wait_until
from tests.support.many_events import INSERT_EVENTS, insert_encoded
from tests.support.mongod import Mongod

Number = Callable[[RuleType], int]
"""How many histories with an anomaly to draw for a type of rule. There are as many clean ones."""

EVALUATED_S = 900
"""The longest that the server may take for all that is due. A history goes on for longer than that."""


class Figures(NamedTuple):
    """What was done: every history was found as it should be."""

    anomalies: int
    clean: int
    events: int
    offline: int
    """Evaluations."""
    stored: int
    """Results of the server's."""

    def line(self) -> str:
        """The figures for people."""
        return (
            f"{self.anomalies} anomalies, each found in the first window that contains it, and {self.clean} clean "
            f"histories without an alert: {self.events} events, {self.offline} evaluations offline, {self.stored} by a "
            "server"
        )


class Watched(NamedTuple):
    """A history whose rule a tenant has."""

    history: History
    key: str
    rule_id: str


def run(directory: Path, mongod: Mongod, seed: str, *, number: Number, hours: int) -> Figures:
    """Draw histories in which rules are evaluated for some hours, and evaluate them. Fails if an alert is wrong."""
    end_ms = last_due(round(time() * MS_PER_S), INTERVAL_MS)
    tenants = {
        f"{rule_type}-{is_clean}": [
            draw(seed, rule_type, each, end_ms, hours, is_clean=is_clean) for each in range(number(rule_type))
        ]
        for rule_type in KINDS
        for is_clean in (False, True)
    }
    histories = [history for drawn in tenants.values() for history in drawn]
    offline = sum(check_offline(directory, history) for history in histories)
    stored = check_server(directory, mongod, tenants)
    clean = sum(history.first_ms is None for history in histories)
    events = sum(len(history.events) for history in histories)
    return Figures(len(histories) - clean, clean, events, offline, stored)


# --- offline


def check_offline(directory: Path, history: History) -> int:
    """`sluice rules test` finds what it should. Returns how many times it evaluates."""
    dues = [due for due in history.dues_ms if history.first_ms is None or due <= history.first_ms]
    evaluations = [
        {"at": text_of(due), "alerts": [{"rule": history.rule["name"]}] if due == history.first_ms else []}
        for due in dues
    ]
    tests = [{"name": history.name, "events": "events.ndjson", "evaluations": evaluations}]
    file = directory / "rules.yaml"
    file.write_text(json.dumps({"rules": [history.rule], "tests": tests}))
    (directory / "events.ndjson").write_text("\n".join(map(json.dumps, exported(history))))
    report = run_tests(file)
    assert report.differences == [], f"{history.name}: {history.rule}"
    return report.evaluations


def exported(history: History) -> list[Json]:
    """The events as `sluice export` writes them, as far as rules need it."""
    return [
        {"event_type": sent.event_type, "source": sent.source, "data": sent.data, "received_at": text_of(sent.at_ms)}
        for sent in history.events
    ]


def text_of(time_ms: int) -> str:
    """A time as text."""
    return format_time(from_milliseconds(time_ms))


# --- on a server


def check_server(directory: Path, mongod: Mongod, tenants: Mapping[str, Sequence[History]]) -> int:
    """The evaluation job finds what it should. Returns how many results it stored."""
    options = ("--mongodb-url", mongod.url, "--workers", "2")
    with mongod.client() as mongo:
        with Server(directory, *options) as server:
            watched = [each for name, histories in tenants.items() for each in watch(server, mongo, name, histories)]
        with Server(directory, *options) as server:
            wait_until(lambda: are_evaluated(mongo, watched), "all due times", EVALUATED_S)
            alerts = {each.rule_id: alerts_of(server, each) for each in watched}
        return sum(check_results(mongo, each, alerts[each.rule_id]) for each in watched)


def watch(server: Server, mongo: MongoClient, tenant: str, histories: Sequence[History]) -> Iterator[Watched]:
    """Store the histories of a tenant, and make their rules as if they had been there from the beginning."""
    key = server.create_key(tenant, "--rate-limit", "0")
    with server.client(key["key"]) as client:
        for history in histories:
            insert(mongo, key, history)
            rule_id = client.post(RULES, json=history.rule).raise_for_status().json()["id"]
            begins_at = from_milliseconds(history.dues_ms[0] - INTERVAL_MS)
            mongo.sluice.rules.update_one({"_id.id": UUID(rule_id)}, {"$set": {"evaluated_until": begins_at}})
            yield Watched(history, key["key"], rule_id)


def insert(mongo: MongoClient, key: Json, history: History) -> None:
    """Store the events of a history as if they had been received then."""
    documents: list[bytes] = []
    for sent in history.events:
        info = BatchInfo(UUID(key["tenant_id"]), sent.source, None, sent.at_ms)
        documents += encode(info, new_ids(sent.at_ms, 1).binary, [Event(sent.event_type, sent.data)], [None])
    for start in range(0, len(documents), INSERT_EVENTS):
        insert_encoded(mongo, documents[start : start + INSERT_EVENTS])


def are_evaluated(mongo: MongoClient, watched: Sequence[Watched]) -> bool:
    """Whether all rules have come to the last due time at which an anomaly may be found."""
    until = from_milliseconds(max(each.history.dues_ms[-1 - SPARE_INTERVALS] for each in watched))
    return mongo.sluice.rules.count_documents({"evaluated_until": {"$gte": until}}) == len(watched)


def alerts_of(server: Server, watched: Watched) -> list[Json]:
    """The alerts of a rule."""
    with server.client(watched.key) as client:
        found: list[Json] = client.get("/api/v1/alerts", params={"rule_id": watched.rule_id}).raise_for_status().json()
    return found


def check_results(mongo: MongoClient, watched: Watched, alerts: Sequence[Json]) -> int:
    """A rule has one result for each due time, fires first when it must, and has alerts for that. Returns how many."""
    history = watched.history
    results = results_of(mongo, watched.rule_id)
    dues = [due_ms(result) for result in results]
    assert dues == list(history.dues_ms[: len(dues)]), history.name
    firing = [due_ms(result) for result in results if result["state"] == "firing"]
    assert firing[:1] == ([] if history.first_ms is None else [history.first_ms]), f"{history.name}: {history.rule}"
    assert not any(result["state"] == "error" for result in results), history.name
    assert check_alerts(mongo, watched.rule_id, results).count("alert.opened") == len(alerts)
    return len(results)
