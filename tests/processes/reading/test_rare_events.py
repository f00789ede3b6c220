"""Rare events among many: a page ends after a while, and following the links shows each of them once.

Once with one mongod, and once with three.
"""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import httpx
import pytest

from server.core.events.ids import new_ids
from server.core.events.model import BatchInfo, Event
from storage.documents import encode
from tests.support.harness import Json, MongoClient, Server
from tests.support.many_events import insert_encoded
from tests.support.mongod import Mongod, ReplicaSet
from tests.support.reading import EVENTS, next_of, walk

DAY_MS = 86_400_000
NEWEST_MS = 1_780_000_000_000

SPANS = [(NEWEST_MS, 1), (NEWEST_MS - 1_000 * DAY_MS, 5), (NEWEST_MS - 15_000 * DAY_MS, 1_000)]
"""Where the events are, newest first: the time of the first batch and milliseconds between two. Years are between."""

BATCHES = 150
"""In each span, of 1,000 events. A page cannot compare all of them in its time."""

EVERY = 70_001
"""Of this number of events, one is rare."""

FEW_EVERY = 9_000
"""Of this number of events, one is of the type `few`: a page of them is found in its time, and is far apart."""


COMMON, FEW, RARE = Event("common", {}), Event("few", {}), Event("rare", {})


class Host(NamedTuple):
    client: httpx.Client
    mongo: MongoClient
    rare: list[str]
    """The ids of the rare events, newest first."""
    few: list[str]
    ids: list[str]
    """One in 1,000 of all ids, newest first."""


@pytest.fixture(
    scope="module",
    params=[1, pytest.param(3, marks=[pytest.mark.slow, pytest.mark.long])],
    ids=["one node", "three nodes"],
)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    path = tmp_path_factory.mktemp("rare")
    with (
        (Mongod if request.param == 1 else ReplicaSet)(path / "db") as mongod,
        mongod.client() as mongo,
        Server(path / "data", "--mongodb-url", mongod.url) as server,
    ):
        key = server.create_key("rare", "--rate-limit", "0")
        for event in (COMMON, FEW, RARE):
            post(server, key, event.type)
        mongo.sluice.events.delete_many({})
        ids, few, rare = insert(mongo, key)
        with server.client(key["key"]) as client:
            yield Host(client, mongo, rare, few, ids)


def post(server: Server, key: Json, event_type: str) -> None:
    """Send an event of a type, so that the server knows the type."""
    with server.client(key["key"]) as client:
        body = {"source": "s", "events": [{"type": event_type, "data": {}}]}
        assert client.post(EVENTS, json=body).status_code == 201


def insert(mongo: MongoClient, key: Json) -> tuple[list[str], list[str], list[str]]:
    """Insert events. Returns one in 1,000 ids, those of the few and those of the rare events, newest first."""
    info = BatchInfo(uuid.UUID(key["tenant_id"]), "s", None, NEWEST_MS)
    number, ids, few, rare = 0, list[str](), list[str](), list[str]()
    for newest, step_ms in SPANS:
        for batch in range(BATCHES):
            made = new_ids(newest - batch * step_ms, 1_000)
            events = []
            for text in reversed(made.text):
                number += 1
                event = COMMON
                if number % EVERY == 0:
                    rare.append(text)
                    event = RARE
                elif number % FEW_EVERY == 0:
                    few.append(text)
                    event = FEW
                events.append(event)
            ids.append(made.text[-1])
            insert_encoded(mongo, encode(info, made.binary, events[::-1], [None] * len(events)))
    return ids, few, rare


def test_following_the_links_shows_each_rare_event_once(host: Host) -> None:
    pages = list(walk(host.client, {"event_type": "rare", "limit": "2"}))
    assert [event["id"] for page in pages for event in page] == host.rare


@pytest.fixture
def profiled(host: Host) -> Iterator[MongoClient]:
    """The server's database, which records in `system.profile` how it runs each command."""
    host.mongo.sluice.command("profile", 2)
    yield host.mongo
    host.mongo.sluice.command("profile", 0)
    host.mongo.sluice.system.profile.drop()


def test_fetching_what_is_far_apart_does_not_read_all_between(host: Host, profiled: MongoClient) -> None:
    pages = list(walk(host.client, {"event_type": "few", "limit": "30"}))
    assert [event["id"] for page in pages for event in page] == host.few
    of_events = {"ns": {"$in": ["sluice.events", "sluice.$cmd.aggregate"]}, "command.projection": None}
    fetches = list(profiled.sluice.system.profile.find({**of_events, "op": {"$in": ["query", "command"]}}))
    assert sum(fetch.get("nreturned", 0) for fetch in fetches) == len(host.few)
    examined = sum(fetch.get("docsExamined", 0) for fetch in fetches)
    assert examined < len(host.ids) * 1_000 / 10  # between them is nearly everything


def test_skip_counts_rare_events_over_pages(host: Host) -> None:
    pages = list(walk(host.client, {"event_type": "rare", "skip": "3", "limit": "1000"}))
    assert [event["id"] for page in pages for event in page] == host.rare[3:]


def test_skip_over_all_but_a_few(host: Host) -> None:
    pages = list(walk(host.client, {"skip": str(len(host.ids) * 1_000 - 5)}))
    shown = [event["id"] for page in pages for event in page]
    assert len(shown) == 5
    assert shown == sorted(shown, reverse=True)
    assert shown[-1][:13] == host.ids[-1][:13]


def test_a_page_anywhere_is_whole(host: Host) -> None:
    for bound in (host.ids[1], host.ids[len(host.ids) // 2], host.ids[-3]):
        until = httpx.QueryParams({"limit": "1000", "until": time_text(bound)})
        page = host.client.get(EVENTS, params=until)
        assert len(page.json()) == 1_000
        assert next_of(page) is not None


def time_text(event_id: str) -> str:
    """When the event with an id was received, as text."""
    milliseconds = int(event_id.replace("-", "")[:12], 16)
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)).isoformat()
