"""Who may make a cursor: all servers of a database, and no client."""

import uuid
from pathlib import Path

import bson
import pytest

from server.core.events.cursor import Cursors
from server.core.events.model import EventFilter
from server.core.events.store import Position
from storage.matches import encode_bound
from tests.processes.reading.conftest import Host
from tests.support.harness import Server, batch
from tests.support.reading import EVENTS, next_of

HIGHEST = encode_bound(bson.MaxKey())
MALFORMED = bson.encode({"": {"a": {"b": 1}}}).replace(b"\x0c\x00\x00\x00", b"\x0d\x00\x00\x00")


@pytest.mark.parametrize("below", [None, HIGHEST, MALFORMED], ids=["start", "a bound", "malformed"])
def test_a_cursor_that_a_client_makes_is_refused(host: Host, below: bytes | None) -> None:
    position = Position(0, below)
    forged = Cursors(b"").encode(uuid.UUID(host.key["tenant_id"]), EventFilter(), position)
    with host.server.client(host.key["key"]) as client:
        response = client.get(EVENTS, params={"cursor": forged})
    assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")
    assert response.json()["detail"].startswith("cursor: ")


def test_every_server_of_a_database_takes_a_cursor_also_later(host: Host, tmp_path: Path) -> None:
    url = host.server.database_options[1]
    with host.server.client(host.key["key"]) as client:
        assert client.post(EVENTS, json=batch(9)).status_code == 201
        page = client.get(EVENTS, params={"limit": "4"})
        shown = client.get(EVENTS).json()
        link = next_of(page)
    assert link is not None
    for _ in range(2):
        with Server(tmp_path, "--mongodb-url", url) as other, other.client(host.key["key"]) as client:
            assert client.get(link).json() == shown[4:8]


def test_the_embedded_database_keeps_the_secret(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.client(server.first_key) as client:
        assert client.post(EVENTS, json=batch(9)).status_code == 201
        link = next_of(client.get(EVENTS, params={"limit": "4"}))
        shown = client.get(EVENTS).json()
        key = server.first_key
    assert link is not None
    with Server(tmp_path) as server, server.client(key) as client:
        assert client.get(link).json() == shown[4:8]
