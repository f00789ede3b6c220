"""The list of events: order, filters, bounds of time, pages, and that no other event is examined."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import httpx
import pytest

from tests.support.harness import Json, MongoClient, batch, event
from tests.support.reading import EVENTS, FILTERS, Query, Tenant


def test_list_is_newest_first(tenant: Tenant) -> None:
    assert len(tenant.listed) == 30
    assert {item["id"] for item in tenant.listed} == set(tenant.ids)
    for newer, older in pairwise(tenant.listed):
        assert (moment(newer), newer["id"]) > (moment(older), older["id"])
    assert [item["id"] for item in tenant.listed[:5]] == tenant.ids[:-6:-1]


def moment(item: Json) -> datetime:
    """When an event was received."""
    return datetime.fromisoformat(item["received_at"]).replace(tzinfo=UTC)


def test_list_without_events(client: httpx.Client) -> None:
    response = client.get(EVENTS)
    assert (response.status_code, response.text) == (200, "[]")


def test_trailing_slash(tenant: Tenant) -> None:
    assert tenant.client.get(EVENTS + "/", params={"limit": 1}).status_code == 200


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
    response = tenant.client.get(EVENTS, params=query)
    assert response.status_code == 200
    assert bool(response.json()) == some


@pytest.mark.parametrize("skip", [0, 1, 7, 29, 30, 31, 2**31 - 1])
@pytest.mark.parametrize("limit", [1, 2, 29, 30, 31, 1000])
def test_limit_and_skip(neighbour: Tenant, limit: int, skip: int) -> None:
    response = neighbour.client.get(EVENTS, params={"limit": limit, "skip": skip})
    assert response.json() == neighbour.listed[skip : skip + limit]


def test_limit_and_skip_with_filters(neighbour: Tenant) -> None:
    expected = [item for item in neighbour.listed if item["source"] == "app" and item["event_type"] == "view"]
    query = {"source": "app", "event_type": "view", "limit": "3", "skip": "2", "since": "2026-01-01"}
    assert neighbour.client.get(EVENTS, params=query).json() == expected[2:5]


def test_limit_is_100_by_default_and_1000_at_most(client: httpx.Client) -> None:
    for _ in range(2):
        ids = [item["id"] for item in client.post(EVENTS, json=batch(1000)).json()["events"]]
    assert [item["id"] for item in client.get(EVENTS).json()] == ids[:-101:-1]
    assert [item["id"] for item in client.get(EVENTS, params={"limit": 1000}).json()] == ids[::-1]


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


@pytest.fixture
def profiled(mongo: MongoClient) -> Iterator[MongoClient]:
    """The server's database, which records in `system.profile` how it runs each command."""
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
    tenant_id, seen = uuid.UUID(key["tenant_id"]), 0
    for name, (query, count) in PROFILED.items():
        assert len(client.get(EVENTS, params=query).json()) == count
        finds = {"command.find": "events", "command.filter._id.$gte.tenant_id": tenant_id}
        runs = list(profiled.sluice.system.profile.find(finds, sort=[("$natural", 1)], skip=seen))
        seen += len(runs)
        if name == "nothing":
            assert runs == []  # this source was never sent
            continue
        searches = [run for run in runs if "projection" in run["command"]]
        fetches = [run for run in runs if "projection" not in run["command"]]
        in_one = len(searches) == 1  # on a busy machine the first one takes too long, and is divided
        assert not in_one or searches[0]["nreturned"] <= count + 1, name
        assert [fetch["nreturned"] for fetch in fetches] == [count] * bool(count), name
        assert all("'stage': 'CLUSTERED_IXSCAN'" in str(run["execStats"]) for run in runs), name
        assert not any("hasSortStage" in run for run in runs), name
        if name in {"since", "until"} and in_one:
            assert runs[0]["keysExamined"] <= 1
