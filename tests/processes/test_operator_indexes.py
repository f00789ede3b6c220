"""Indexes and validators that an operator adds: what they refuse is an error of that event, and nothing is left behind.

The same over REST, a unary call and a stream.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import grpc
import httpx
import pymongo
import pytest
from pymongo.collection import Collection
from sluice.v1 import event_service_pb2 as pb

from tests.support.grpc_client import channel_to
from tests.support.harness import Json, MongoClient, Server
from tests.support.mongod import Mongod, failing_inserts
from tests.support.parity import Case, Event, Outcome, Rejected, Stored, by_rest, by_stream, by_unary, take_stored

NOT_WRITABLE_PRIMARY = 10107


class Rule(NamedTuple):
    """What an operator adds, data that it refuses, and what the client is told."""

    add: Callable[[Collection[Json]], object]
    bad: str
    message: str


def index(*keys: tuple[str, str | int], **options: Any) -> Callable[[Collection[Json]], object]:
    return lambda events: events.create_index(list(keys), **options)


BY_INDEX = "Rejected by an index or the validator of the collection (MongoDB code {})"

RULES = {
    "unique": Rule(
        index(
            ("_id.tenant_id", 1),
            ("data.transaction_id", 1),
            name="once each",
            unique=True,
            partialFilterExpression={"data.transaction_id": {"$exists": True}},
        ),
        '{"transaction_id": "T1"}',
        "Rejected by the unique index once each of the collection: "
        "another event has the same _id.tenant_id, data.transaction_id",
    ),
    "text": Rule(index(("$**", "text")), '{"language": "klingon"}', BY_INDEX.format(17262)),
    "2dsphere": Rule(
        index(("data.place", "2dsphere")),
        '{"place": {"type": "Point", "coordinates": [999, 0]}}',
        BY_INDEX.format(16755),
    ),
    "two arrays": Rule(index(("data.a", 1), ("data.b", 1)), '{"a": [1], "b": [2]}', BY_INDEX.format(171)),
    "hashed": Rule(index(("data.hashed", "hashed")), '{"hashed": [1, 2]}', BY_INDEX.format(16766)),
    "validator": Rule(
        lambda events: events.database.command("collMod", "events", validator={"data.poison": {"$exists": False}}),
        '{"poison": 1}',
        "Rejected by the validator of the collection",
    ),
}


class Host(NamedTuple):
    server: Server
    mongo: MongoClient
    channel: grpc.Channel


@pytest.fixture(scope="module", params=["motor", "pymongo"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    path = tmp_path_factory.mktemp("host")
    with ExitStack() as stack:
        mongod = stack.enter_context(Mongod(path / "db"))
        mongo = stack.enter_context(mongod.client())
        options = ("--mongodb-url", mongod.url, "--driver", request.param)
        server = stack.enter_context(Server(path / "data", *options))
        yield Host(server, mongo, stack.enter_context(channel_to(server.grpc)))


@pytest.fixture
def key(host: Host) -> Json:
    return host.server.create_key(f"t-{uuid.uuid4().hex}", "--rate-limit", "0")


@pytest.fixture
def client(host: Host, key: Json) -> Iterator[httpx.Client]:
    with host.server.client(key["key"]) as opened:
        yield opened


@contextmanager
def added(rule: Rule, mongo: MongoClient) -> Iterator[None]:
    """The operator adds it, and drops it again."""
    events = mongo.sluice.events
    before = set(events.index_information())
    rule.add(events)
    try:
        yield
    finally:
        for name in set(events.index_information()) - before:
            events.drop_index(name)
        mongo.sluice.command("collMod", "events", validator={})


def records_of(mongo: MongoClient, key: Json) -> list[Json]:
    return list(mongo.sluice["claims"].find({"tenant_id": uuid.UUID(key["tenant_id"])}))


def with_first(rule: Rule, client: httpx.Client) -> None:
    """Store what the unique index holds against the bad event."""
    if rule is RULES["unique"]:
        assert isinstance(by_rest(client, Case([Event(rule.bad)], source="first")), Stored)


@pytest.mark.parametrize("idempotency_key", ["", "k1"])
@pytest.mark.parametrize("name", RULES)
def test_a_strict_batch_is_refused_whole(
    host: Host, client: httpx.Client, key: Json, name: str, idempotency_key: str
) -> None:
    rule = RULES[name]
    case = Case([Event(), Event(rule.bad), Event()], idempotency_key=idempotency_key)
    with added(rule, host.mongo):
        with_first(rule, client)
        path = "events[1]"
        for way in range(3):
            outcome = once(way, case, host, client, key)
            assert outcome == Rejected(
                "invalid_batch", "INVALID_ARGUMENT", f"{path}: {rule.message}", [(path, rule.message)]
            )
            assert records_of(host.mongo, key) == []
            assert [item["source"] for item in stored(host, key)] == ["first"] * (name == "unique")
        if idempotency_key:  # the key of a refused batch was not used
            corrected = by_rest(client, case._replace(events=[Event(), Event()]))
            assert isinstance(corrected, Stored)
            assert len(stored(host, key)) == 2 + (name == "unique")
    take_stored(host.mongo, key)


def stored(host: Host, key: Json) -> list[Json]:
    """What is stored for the tenant, but for good batches of `by_stream`."""
    query = {"_id.tenant_id": uuid.UUID(key["tenant_id"]), "source": {"$ne": "after"}}
    return list(host.mongo.sluice.events.find(query).sort("_id"))


@pytest.mark.parametrize("idempotency_key", ["", "k1"])
@pytest.mark.parametrize("name", RULES)
def test_a_lenient_batch_is_stored_without_what_is_refused(
    host: Host, client: httpx.Client, key: Json, name: str, idempotency_key: str
) -> None:
    rule = RULES[name]
    with added(rule, host.mongo):
        with_first(rule, client)
        events = [Event(), Event('{"a": 1e999}'), Event(rule.bad), Event()]
        for way in range(3):
            case = Case(events, handling=pb.HANDLING_LENIENT, idempotency_key=idempotency_key and f"k{way}")
            outcome = once(way, case, host, client, key)
            assert isinstance(outcome, Stored)
            assert [path for path, _ in outcome.rejections] == ["events[1].data.a", "events[2]"]
            assert outcome.rejections[1][1] == rule.message
            assert set(outcome.ids) <= {str(item["_id"]["id"]) for item in stored(host, key)}
            assert len(outcome.ids) == 2
            none_good = case._replace(events=[Event(rule.bad)], idempotency_key="")
            refused = once(way, none_good, host, client, key)
            assert isinstance(refused, Rejected)
            assert refused.violations == [("events[0]", rule.message)]
    take_stored(host.mongo, key)


def once(way: int, case: Case, host: Host, client: httpx.Client, key: Json) -> Outcome:
    """What a batch comes to over one of the three ways."""
    if way == 0:
        return by_rest(client, case)
    return (by_unary, by_stream)[way - 1](host.channel, key["key"], case.message())


@pytest.mark.parametrize("name", ["unique", "validator"])
def test_a_batch_that_was_acknowledged_before_the_rule_is_replayed(
    host: Host, client: httpx.Client, key: Json, name: str
) -> None:
    rule = RULES[name]
    case = Case([Event(), Event(rule.bad), Event()], idempotency_key="k1")
    first = by_rest(client, case)
    assert isinstance(first, Stored)
    with added(rule, host.mongo):
        again = client.post("/api/v1/events", content=case.body(), headers=case.headers())
        assert again.status_code == 201, again.text
        assert again.headers["Idempotent-Replayed"] == "true"
        assert [item["id"] for item in again.json()["events"]] == first.ids
    assert [str(item["_id"]["id"]) for item in stored(host, key)] == first.ids
    take_stored(host.mongo, key)


@pytest.mark.parametrize("idempotency_key", ["", "k1"])
def test_a_batch_is_refused_whole_in_an_election_too(
    host: Host, client: httpx.Client, key: Json, idempotency_key: str
) -> None:
    rule = RULES["validator"]
    case = Case([Event(), Event(rule.bad), Event()], idempotency_key=idempotency_key)
    error = {"writeConcernError": {"code": NOT_WRITABLE_PRIMARY, "errmsg": "stepped down"}}
    with added(rule, host.mongo), failing_inserts(host.mongo, 1, **error):
        outcome = by_rest(client, case)
    assert isinstance(outcome, Rejected)
    assert outcome.violations == [("events[1]", rule.message)]
    assert stored(host, key) == []
    assert records_of(host.mongo, key) == []


@pytest.mark.parametrize("code", [9, 40, 59, 8000])
def test_what_cannot_be_undone_is_of_unknown_outcome_until_a_retry(
    host: Host, client: httpx.Client, key: Json, code: int
) -> None:
    rule = RULES["validator"]
    case = Case([Event(), Event(rule.bad), Event()], idempotency_key="k1")
    failing = {"failCommands": ["delete"], "appName": "sluice", "errorCode": code, "namespace": "sluice.events"}
    with added(rule, host.mongo):
        host.mongo.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=failing)
        outcome = by_rest(client, case)
        host.mongo.admin.command("configureFailPoint", "failCommand", mode="off")
        assert isinstance(outcome, Rejected)
        assert (outcome.code, outcome.outcome) == ("unavailable", "unknown")
        assert len(stored(host, key)) == 2
        outcome = by_rest(client, case)
        assert isinstance(outcome, Rejected)
        assert outcome.violations == [("events[1]", rule.message)]
        assert stored(host, key) == []
        assert records_of(host.mongo, key) == []


def test_a_unique_index_with_a_collation_is_named_without_it(host: Host, client: httpx.Client, key: Json) -> None:
    rule = RULES["unique"]._replace(
        add=index(
            ("_id.tenant_id", 1),
            ("data.transaction_id", 1),
            name="once each",
            unique=True,
            partialFilterExpression={"data.transaction_id": {"$exists": True}},
            collation={"locale": "en", "strength": 2},
        )
    )
    with added(rule, host.mongo):
        assert isinstance(by_rest(client, Case([Event('{"transaction_id": "t1"}')])), Stored)
        refused = by_rest(client, Case([Event(rule.bad)]))
        assert isinstance(refused, Rejected)
        assert refused.violations == [("events[0]", rule.message)]
    take_stored(host.mongo, key)


def test_the_values_of_a_refused_event_are_not_quoted(host: Host, client: httpx.Client, key: Json) -> None:
    secret = uuid.uuid4().hex
    with added(RULES["unique"], host.mongo):
        data = f'{{"transaction_id": "{secret}"}}'
        assert isinstance(by_rest(client, Case([Event(data)])), Stored)
        refused = client.post("/api/v1/events", content=Case([Event(data)]).body(), headers=Case().headers())
        assert refused.status_code == 400
        assert secret not in refused.text
        assert secret not in host.server.stderr()
    take_stored(host.mongo, key)
    assert pymongo.errors.DuplicateKeyError.__name__ not in host.server.stderr()
