"""A tenant with events to read."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import httpx

from tests.support.harness import Json, Server, event

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
    """A new tenant with some batches of events."""
    key = server.create_key(f"{name}-{uuid.uuid4().hex}", "--rate-limit", "0")
    with server.client(key["key"]) as client:
        ids = []
        for number in range(6):
            sent = {
                "source": ("web", "app")[number % 2],
                "source_id": ("one", None, "two")[number % 3],
                "events": [event(index, type=("view", "click", "é/ü &+%")[index % 3]) for index in range(5)],
            }
            response = client.post(EVENTS, json=sent)
            assert response.status_code == 201
            ids += [item["id"] for item in response.json()["events"]]
        yield Tenant(key, client, ids, client.get(EVENTS).json())


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


def assert_not_found(response: httpx.Response) -> None:
    """Fails unless the response is a 404 of Sluice."""
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "not_found"


def next_of(response: httpx.Response) -> str | None:
    """The link to the next page."""
    assert response.status_code == 200, response.text
    link = response.links.get("next")
    return None if link is None else link["url"]


def walk(client: httpx.Client, query: Query) -> Iterator[list[Json]]:
    """The pages of a list, to its end."""
    response = client.get(EVENTS, params=query)
    while (link := next_of(response)) is not None:
        yield response.json()
        response = client.get(link)
    yield response.json()
