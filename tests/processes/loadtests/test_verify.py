"""The verify phase, against a real database that is damaged: it notices every kind of damage."""

import uuid
from collections.abc import Callable
from contextlib import closing
from typing import Any

import msgspec
import pytest

from loadtests.support.plan import Lane
from loadtests.support.records import Record
from loadtests.support.templates import Template
from loadtests.support.thresholds import (
    DUPLICATES,
    FOREIGN,
    LOST,
    MISPLACED,
    STORED_THOUGH_REJECTED,
    WRONG_REPLAYS,
    Threshold,
)
from loadtests.support.verify import Findings, stored_events, verify
from loadtests.users import responses
from loadtests.users.clients import Rest, Unary
from tests.support.harness import Json, MongoClient, Server, embedded_url
from tests.support.records import SIZES, lane_of, missed, record_of


@pytest.fixture(params=["rest", "unary"])
def sent(request: pytest.FixtureRequest, server: Server, key: Json) -> tuple[Lane, list[Record]]:
    """A lane whose batches were sent, and what came of them."""
    lane = lane_of(key, request.param)
    rest = lane.api == "rest"
    client = Rest(server.url, lane.key, 30, 0) if rest else Unary(server.grpc, lane.key, 30)
    bodies = (Template(lane, size).fill(lane.first_mark(ticket)) for ticket, size in enumerate(SIZES))
    with closing(client):
        return lane, [record_of(lane, ticket, client.send(body, "")) for ticket, body in enumerate(bodies)]


def findings_of(server: Server, lane: Lane, records: list[Record]) -> Findings:
    """What the verify phase finds."""
    return verify(records, [lane], stored_events(embedded_url(server.data_dir), "sluice", [lane.source]))


def test_verify_passes_what_is_stored_as_acknowledged(server: Server, sent: tuple[Lane, list[Record]]) -> None:
    findings = findings_of(server, *sent)
    assert missed(findings.checks()) == []
    assert findings.stored == findings.acknowledged == sum(SIZES)


def lose(events: Any, one: Json) -> None:
    events.delete_one({"_id": one["_id"]})


def duplicate(events: Any, one: Json) -> None:
    later = uuid.UUID(int=one["_id"]["id"].int + 1)  # of two that are the same, the first counts as the right one
    events.insert_one({**one, "_id": {**one["_id"], "id": later}})


def slip_in(events: Any, one: Json) -> None:
    events.insert_one({**one, "_id": {**one["_id"], "id": uuid.uuid4()}, "data": {"n": one["data"]["n"] + 500}})


def slip_in_unmarked(events: Any, one: Json) -> None:
    events.insert_one({**one, "_id": {**one["_id"], "id": uuid.uuid4()}, "data": {}})


def give_away(events: Any, one: Json) -> None:
    events.delete_one({"_id": one["_id"]})
    events.insert_one({**one, "_id": {**one["_id"], "tenant_id": uuid.uuid4()}})


def rename(events: Any, one: Json) -> None:
    events.delete_one({"_id": one["_id"]})
    events.insert_one({**one, "_id": {**one["_id"], "id": uuid.uuid4()}})


@pytest.mark.parametrize(
    ("damage", "noticed"),
    [
        (lose, LOST),
        (duplicate, DUPLICATES),
        (slip_in, FOREIGN),
        (slip_in_unmarked, FOREIGN),
        (give_away, MISPLACED),
        (rename, MISPLACED),
    ],
)
def test_verify_notices_damage(
    server: Server,
    mongo: MongoClient,
    sent: tuple[Lane, list[Record]],
    damage: Callable[[Any, Json], None],
    noticed: Threshold,
) -> None:
    lane, records = sent
    one = mongo.sluice.events.find_one({"source": lane.source})
    assert one is not None
    damage(mongo.sluice.events, one)
    assert missed(findings_of(server, lane, records).checks()) == [noticed]


def test_verify_notices_what_a_rejected_batch_left_behind(server: Server, sent: tuple[Lane, list[Record]]) -> None:
    lane, (first, *rest) = sent
    refused = record_of(lane, first.ticket, responses.Response("unavailable", "503", 1))
    assert missed(findings_of(server, lane, [refused, *rest]).checks()) == [STORED_THOUGH_REJECTED]


def test_verify_accounts_for_unknown_outcomes(server: Server, sent: tuple[Lane, list[Record]]) -> None:
    lane, (first, *rest) = sent
    broken = record_of(lane, first.ticket, responses.Response("broken", "TimeoutError"))
    findings = findings_of(server, lane, [broken, *rest])
    assert missed(findings.checks()) == []
    assert findings.settled_later == first.events


def test_verify_notices_a_repeat_with_another_receipt(server: Server, sent: tuple[Lane, list[Record]]) -> None:
    lane, records = sent
    repeat = msgspec.structs.replace(records[0], ids=uuid.uuid4().bytes, replayed=True)
    assert missed(findings_of(server, lane, [*records, repeat]).checks()) == [WRONG_REPLAYS]
