"""Reading events back: the list with its filters, and one event by its id. No tenant sees another's."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

import httpx
import pytest

from tests.support.harness import Json, MongoClient, Server, batch, event

EVENTS = "/api/v1/events"
FIELDS = ["id", "tenant_id", "source", "source_id", "event_type", "data", "timestamp", "received_at", "metadata"]

Query = dict[str, str]


class Tenant(NamedTuple):
    """A tenant with events: a client with its key, the ids in the order sent, and what a plain list shows."""

    key: Json
    client: httpx.Client
    ids: list[str]
    listed: list[Json]


@contextmanager
def tenant_with_events(server: Server, name: str) -> Iterator[Tenant]:
    """A tenant with some batches of events."""
    key = server.create_key(name, "--rate-limit", "0")
    with server.client(key["key"]) as client:
        ids = []
        for number in range(6):
            sent = {
                "source": ("web", "app")[number % 2],
                "source_id": ("one", None, "two")[number % 3],
                "events": [event(index, type=("view", "click", "é/ü &+%")[index % 3]) for index in range(5)],
            }
            answer = client.post(EVENTS, json=sent)
            assert answer.status_code == 201
            ids += [item["id"] for item in answer.json()["events"]]
        yield Tenant(key, client, ids, client.get(EVENTS).json())


@pytest.fixture(scope="module")
def tenant(server: Server) -> Iterator[Tenant]:
    with tenant_with_events(server, "reading") as made:
        yield made


@pytest.fixture(scope="module")
def neighbour(server: Server) -> Iterator[Tenant]:
    """Another tenant, whose events differ in nothing but their ids."""
    with tenant_with_events(server, "neighbour") as made:
        yield made


def test_list_is_newest_first(tenant: Tenant) -> None:
    assert len(tenant.listed) == 30
    assert {item["id"] for item in tenant.listed} == set(tenant.ids)
    for newer, older in pairwise(tenant.listed):
        assert (moment(newer), newer["id"]) > (moment(older), older["id"])
    assert [item["id"] for item in tenant.listed[:5]] == tenant.ids[:-6:-1]


def moment(item: Json) -> datetime:
    """When an event was received."""
    return datetime.fromisoformat(item["received_at"]).replace(tzinfo=UTC)


def test_an_event_is_shown_whole_and_in_order(tenant: Tenant) -> None:
    sent = {
        "source": "etl",
        "source_id": "etl-7",
        "events": [
            event(type="full", timestamp="2026-03-01T12:00:00.120Z", metadata={"sdk": "1.2"}),
            event(type="bare", timestamp="2026-03-01T12:00:00Z"),
        ],
    }
    with_id = tenant.client.post(EVENTS, json=sent).json()["events"]
    without_id = tenant.client.post(EVENTS, json={"source": "etl", "events": [event(type="alone")]}).json()["events"]
    shown = [tenant.client.get(f"{EVENTS}/{item['id']}") for item in with_id + without_id]
    assert [answer.status_code for answer in shown] == [200, 200, 200]
    assert {answer.headers["content-type"] for answer in shown} == {"application/json"}
    full, bare, alone = (answer.json() for answer in shown)
    received_at = full["received_at"]
    assert list(full.items()) == [
        ("id", with_id[0]["id"]),
        ("tenant_id", tenant.key["tenant_id"]),
        ("source", "etl"),
        ("source_id", "etl-7"),
        ("event_type", "full"),
        ("data", event()["data"]),
        ("timestamp", "2026-03-01T12:00:00.120"),
        ("received_at", received_at),
        ("metadata", {"sdk": "1.2"}),
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.(?!000)\d{3})?", received_at)
    assert received_at.startswith(with_id[0]["received_at"])
    assert (bare["timestamp"], bare["metadata"], bare["received_at"]) == ("2026-03-01T12:00:00", None, received_at)
    assert (alone["source_id"], alone["timestamp"]) == (None, alone["received_at"])
    assert tenant.client.get(EVENTS, params={"source": "etl"}).json() == [alone, bare, full]
    assert tenant.client.get(f"{EVENTS}/{full['id'].upper()}").json() == full


def test_list_without_events(client: httpx.Client) -> None:
    answer = client.get(EVENTS)
    assert (answer.status_code, answer.text) == (200, "[]")


def test_trailing_slash(tenant: Tenant) -> None:
    assert tenant.client.get(EVENTS + "/", params={"limit": 1}).status_code == 200


FILTERS: dict[str, Query] = {
    "source": {"source": "web"},
    "event_type": {"event_type": "click"},
    "event_type, escaped": {"event_type": "é/ü &+%"},
    "source_id": {"source_id": "two"},
    "source and type": {"source": "app", "event_type": "view"},
    "source and source_id": {"source": "web", "source_id": "one"},
    "all names": {"source": "app", "event_type": "click", "source_id": "one"},
    "unknown source": {"source": "we"},
    "case of source": {"source": "WEB"},
    "unknown type": {"event_type": "click "},
    "a source that is another's type": {"source": "click"},
    "unknown source_id": {"source_id": "null"},
    "no such combination": {"source": "web", "event_type": "click", "source_id": "three"},
}


@pytest.mark.parametrize("query", FILTERS.values(), ids=FILTERS)
def test_filter(tenant: Tenant, neighbour: Tenant, query: Query) -> None:
    for reader in (tenant, neighbour):
        expected = [item for item in reader.listed if query.items() <= item.items()]
        assert len(expected) < 30
        assert reader.client.get(EVENTS, params={"until": bound(reader.listed[0], 1), **query}).json() == expected


def bound(item: Json, milliseconds: float = 0) -> str:
    """A time before or after an event was received."""
    return (moment(item) + timedelta(milliseconds=milliseconds)).isoformat()


@pytest.mark.parametrize("names", [{}, {"source": "web"}, {"event_type": "view"}], ids=["all", "source", "type"])
@pytest.mark.parametrize("since", [None, -1, -0.001, 0, 0.001, 1])
@pytest.mark.parametrize("until", [None, -1, -0.001, 0, 0.001, 1])
def test_since_is_inclusive_and_until_exclusive(
    tenant: Tenant, names: Query, since: float | None, until: float | None
) -> None:
    earlier, later = tenant.listed[20], tenant.listed[8]
    query, expected = dict(names), [item for item in tenant.listed if names.items() <= item.items()]
    if since is not None:
        query["since"] = bound(earlier, since)
        expected = [item for item in expected if moment(item) >= datetime.fromisoformat(query["since"])]
    query["until"] = bound(tenant.listed[0], 1) if until is None else bound(later, until)
    expected = [item for item in expected if moment(item) < datetime.fromisoformat(query["until"])]
    assert expected
    assert tenant.client.get(EVENTS, params=query).json() == expected


SPANS: dict[str, tuple[Query, bool]] = {
    "long ago": ({"until": "0001-01-01"}, False),
    "since long ago": ({"since": "0001-01-01T00:00:00Z"}, True),
    "before 1970": ({"until": "1969-12-31T23:59:59.999Z"}, False),
    "far future": ({"since": "9999-12-31T23:59:59.999999"}, False),
    "until the far future": ({"until": "9999-12-31"}, True),
    "nothing between": ({"since": "2026-01-02", "until": "2026-01-01"}, False),
    "basic, with an offset": ({"since": "20260101T000000+0530"}, True),
    "week": ({"since": "2026-W01"}, True),
}


@pytest.mark.parametrize(("query", "some"), SPANS.values(), ids=SPANS)
def test_any_iso_8601_time_will_do(tenant: Tenant, query: Query, some: bool) -> None:
    answer = tenant.client.get(EVENTS, params=query)
    assert answer.status_code == 200
    assert bool(answer.json()) == some


@pytest.mark.parametrize("skip", [0, 1, 7, 29, 30, 31, 2**31 - 1])
@pytest.mark.parametrize("limit", [1, 2, 29, 30, 31, 1000])
def test_limit_and_skip(neighbour: Tenant, limit: int, skip: int) -> None:
    answer = neighbour.client.get(EVENTS, params={"limit": limit, "skip": skip})
    assert answer.json() == neighbour.listed[skip : skip + limit]


def test_limit_and_skip_with_filters(neighbour: Tenant) -> None:
    expected = [item for item in neighbour.listed if item["source"] == "app" and item["event_type"] == "view"]
    query = {"source": "app", "event_type": "view", "limit": "3", "skip": "2", "since": "2026-01-01"}
    assert neighbour.client.get(EVENTS, params=query).json() == expected[2:5]


def test_limit_is_100_by_default_and_1000_at_most(client: httpx.Client) -> None:
    for _ in range(2):
        ids = [item["id"] for item in client.post(EVENTS, json=batch(1000)).json()["events"]]
    assert [item["id"] for item in client.get(EVENTS).json()] == ids[:-101:-1]
    assert [item["id"] for item in client.get(EVENTS, params={"limit": 1000}).json()] == ids[::-1]


BAD_QUERIES: dict[str, tuple[str, str]] = {
    "limit 0": ("limit=0", "limit"),
    "limit too high": ("limit=1001", "limit"),
    "limit negative": ("limit=-1", "limit"),
    "limit signed": ("limit=%2B1", "limit"),
    "limit empty": ("limit=", "limit"),
    "limit alone": ("limit", "limit"),
    "limit fraction": ("limit=1.0", "limit"),
    "limit exponent": ("limit=1e2", "limit"),
    "limit words": ("limit=ten", "limit"),
    "limit padded": ("limit=%201", "limit"),
    "limit in other digits": ("limit=%D9%A1", "limit"),
    "limit superscript": ("limit=%C2%B2", "limit"),
    "limit endless": (f"limit={'9' * 5000}", "limit"),
    "skip negative": ("skip=-1", "skip"),
    "skip too high": ("skip=2147483648", "skip"),
    "skip beyond 64 bits": ("skip=99999999999999999999", "skip"),
    "skip empty": ("skip=", "skip"),
    "since words": ("since=yesterday", "since"),
    "since empty": ("since=", "since"),
    "since number": ("since=1772366400", "since"),
    "since with a bare +": ("since=2026-03-01T12:00:00+02:00", "since"),
    "since out of range": ("since=0001-01-01T00:00:00%2B01:00", "since"),
    "until words": ("until=tomorrow&since=2026-01-01", "until"),
    "until out of range": ("until=9999-12-31T23:59:59-01:00", "until"),
    "source empty": ("source=", "source"),
    "source long": (f"source={'a' * 256}", "source"),
    "event_type empty": ("event_type=", "event_type"),
    "event_type long": (f"event_type={'%C3%A9' * 256}", "event_type"),
    "source_id long": (f"source_id={'a' * 256}", "source_id"),
    "unknown": ("source=web&sauce=web", "sauce"),
    "unknown, of MongoDB": ("source[$ne]=web", "source[$ne]"),
    "unknown, another tenant": (f"tenant_id={uuid.uuid4()}", "tenant_id"),
    "unknown, case": ("Limit=1", "Limit"),
    "repeated": ("limit=1&source=web&source=web", "source"),
    "repeated empty": ("skip=1&limit=1&skip=", "skip"),
}


@pytest.mark.parametrize(("query", "name"), BAD_QUERIES.values(), ids=BAD_QUERIES)
def test_bad_parameter_is_named(tenant: Tenant, query: str, name: str) -> None:
    answer = tenant.client.get(f"{EVENTS}?{query}")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (400, "invalid_parameter")
    assert problem["detail"].startswith(f"{name}: ")
    assert len(answer.content) < 1000


def test_hint_for_a_plus_that_means_a_space(tenant: Tenant) -> None:
    answer = tenant.client.get(f"{EVENTS}?until=2026-03-01T12:00:00+02:00")
    assert "%2B" in answer.json()["detail"]


def test_query_that_is_not_utf_8(tenant: Tenant) -> None:
    answer = tenant.client.get(f"{EVENTS}?source=%FF")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter")


def test_longest_names_are_found(client: httpx.Client) -> None:
    names = {"source": "é" * 255, "source_id": "😀" * 255, "event_type": "\0" * 255}
    sent = {"source": names["source"], "source_id": names["source_id"], "events": [event(type=names["event_type"])]}
    (posted,) = client.post(EVENTS, json=sent).json()["events"]
    for query in ({}, names, *({name: value} for name, value in names.items())):
        (item,) = client.get(EVENTS, params=query).json()
        assert item["id"] == posted["id"]
        assert names.items() <= item.items()


def test_empty_source_id_is_found(client: httpx.Client) -> None:
    for source_id in ("", None):
        assert client.post(EVENTS, json={**batch(), "source_id": source_id}).status_code == 201
    (item,) = client.get(EVENTS, params={"source_id": ""}).json()
    assert item["source_id"] == ""


NO_IDS: dict[str, str] = {
    "unknown": str(uuid.uuid4()),
    "zero": str(uuid.UUID(int=0)),
    "words": "tail-or-head",
    "one digit short": str(uuid.uuid4())[:-1],
    "one digit long": f"{uuid.uuid4()}0",
    "not hexadecimal": "g" + str(uuid.uuid4())[1:],
    "of MongoDB": "507f1f77bcf86cd799439011",
    "escaped NUL": f"{uuid.uuid4()}%00",
    "other digits": "%D9%A1" * 32,
    "not UTF-8": "%FF%FE",
    "a path": f"{uuid.uuid4()}/data",
    "long": "a" * 10_000,
}


@pytest.mark.parametrize("event_id", NO_IDS.values(), ids=NO_IDS)
def test_no_event_with_this_id(tenant: Tenant, event_id: str) -> None:
    assert_not_found(tenant.client.get(f"{EVENTS}/{event_id}"))


def assert_not_found(answer: httpx.Response) -> None:
    """It is a clear 404."""
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "not_found"


def test_anothers_event_is_not_found(tenant: Tenant, neighbour: Tenant) -> None:
    nobodys = tenant.client.get(f"{EVENTS}/{uuid.uuid4()}")
    for reader, owner in ((tenant, neighbour), (neighbour, tenant)):
        for event_id in owner.ids:
            answer = reader.client.get(f"{EVENTS}/{event_id}")
            assert_not_found(answer)
            assert answer.content == nobodys.content  # that it exists is not to be inferred
            assert owner.client.get(f"{EVENTS}/{event_id}").status_code == 200


ISOLATED: dict[str, Query] = {
    "plain": {},
    "everything": {"limit": "1000", "since": "0001-01-01", "until": "9999-12-31"},
    "skip": {"limit": "1000", "skip": "5"},
    **{name: {**query, "limit": "1000"} for name, query in FILTERS.items()},
}


@pytest.mark.parametrize("query", ISOLATED.values(), ids=ISOLATED)
def test_no_query_shows_anothers_events(tenant: Tenant, neighbour: Tenant, query: Query) -> None:
    for reader, other in ((tenant, neighbour), (neighbour, tenant)):
        items = reader.client.get(EVENTS, params=query).json()
        assert {item["tenant_id"] for item in items} <= {reader.key["tenant_id"]}
        assert not {item["id"] for item in items} & set(other.ids)


def test_new_key_of_a_tenant_reads_its_events(server: Server, neighbour: Tenant) -> None:
    with server.client(server.create_key("neighbour", "--scope", "events:read")["key"]) as client:
        assert client.get(EVENTS).json() == neighbour.listed
        assert client.get(f"{EVENTS}/{neighbour.ids[0]}").json() == neighbour.listed[-1]
        refused = client.post(EVENTS, json=batch())
        assert_lacks(refused, "events:write")
    assert neighbour.client.get(EVENTS).json() == neighbour.listed


def test_reading_needs_its_scope(server: Server) -> None:
    with server.client(server.create_key("writer", "--scope", "events:write")["key"]) as client:
        (posted,) = client.post(EVENTS, json=batch()).json()["events"]
        for path in (EVENTS, f"{EVENTS}?limit=0", f"{EVENTS}/{posted['id']}", f"{EVENTS}/{uuid.uuid4()}"):
            assert_lacks(client.get(path), "events:read")


def assert_lacks(answer: httpx.Response, scope: str) -> None:
    """The key was refused for lack of a scope, which is named."""
    assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope")
    assert scope in answer.json()["detail"]


@pytest.mark.parametrize("path", [EVENTS, f"{EVENTS}/{uuid.uuid4()}"], ids=["list", "one"])
@pytest.mark.parametrize("secret", [None, "", "slc_", f"slc_{'A' * 43}", "é"], ids=str)
def test_reading_needs_a_key(server: Server, path: str, secret: str | None) -> None:
    headers = {} if secret is None else {b"X-API-Key": secret.encode()}
    with server.client() as client:
        answer = client.get(path, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


@pytest.fixture
def profiled(mongo: MongoClient) -> Iterator[MongoClient]:
    """The server's database, which writes down in `system.profile` how it runs each command."""
    mongo.sluice.command("profile", 2)
    yield mongo
    mongo.sluice.command("profile", 0)
    mongo.sluice.system.profile.drop()


PROFILED: dict[str, tuple[Query, int]] = {
    "all": ({}, 100),
    "limit": ({"limit": "7"}, 7),
    "source": ({"source": "rare"}, 1),
    "event_type": ({"event_type": "rare"}, 2),
    "source_id": ({"source_id": "rare"}, 3),
    "all names": ({"source": "rare", "event_type": "rare", "source_id": "rare"}, 1),
    "nothing": ({"source": "none"}, 0),
    "since": ({"since": "9000-01-01"}, 0),
    "until": ({"until": "2020-01-01"}, 0),
    "filter and time": ({"event_type": "rare", "since": "2026-01-01", "limit": "1"}, 1),
}


def test_list_examines_no_event_that_it_does_not_show(client: httpx.Client, key: Json, profiled: MongoClient) -> None:
    client.post(EVENTS, json=batch(1000))
    client.post(EVENTS, json={"source": "rare", "source_id": "rare", "events": [event(type="rare")]})
    client.post(EVENTS, json={"source": "x", "source_id": "rare", "events": [event(type="rare"), event()]})
    client.post(EVENTS, json=batch(1000))
    for query, count in PROFILED.values():
        assert len(client.get(EVENTS, params=query).json()) == count
    runs = profiled.sluice.system.profile.find(
        {"command.find": "events", "command.filter.tenant_id": uuid.UUID(key["tenant_id"])}, sort=[("$natural", 1)]
    )
    profiles = dict(zip(PROFILED, runs, strict=True))
    for name, (_, count) in PROFILED.items():
        profile = profiles[name]
        assert (profile["nreturned"], profile["docsExamined"]) == (count, count), name
        assert "'indexName': 'listing'" in str(profile["execStats"]), name
        assert "hasSortStage" not in profile, name
    assert profiles["since"]["keysExamined"] <= 1
    assert profiles["until"]["keysExamined"] <= 1
