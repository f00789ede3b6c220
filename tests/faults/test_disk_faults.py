"""The disk of an embedded database is full or read-only under load: nothing acknowledged is lost, and it recovers."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pymongo
import pytest

from storage.embedded import State
from tests.faults.disk_faults import full_disk, read_only_disk, small_disk
from tests.faults.ledger import Ledger
from tests.faults.users import Load
from tests.faults.verdict import Violations, compare, events_of, stored
from tests.support.harness import MongoClient, Server, batch, wait_until

RECOVERY_S = 60
"""An event is stored within this after the disk is good again: within 10 s, if no other tests run."""

Inflict = Callable[[Server, Path], AbstractContextManager[None]]


@pytest.mark.slow
@pytest.mark.parametrize("inflict", [full_disk, read_only_disk])
def test_the_promise_holds_when_the_disk_fails(tmp_path: Path, inflict: Inflict) -> None:
    ledger = Ledger()
    with small_disk(tmp_path / "disk") as disk:
        data = disk / "data"
        server = Server(tmp_path / "server", "--data-dir", str(data), "--workers", "2")
        server.database_options = ["--data-dir", str(data)]
        with server:
            key = server.create_key("faults", "--rate-limit", "0")["key"]
            with Load(1, [server], [key], ledger) as load, server.client(key) as client:
                load.wait_until_it_works()
                with inflict(server, disk):
                    assert client.get("/health/ready").status_code == 503
                wait_until(lambda: client.post("/api/v1/events", json=other()).status_code == 201, "201", RECOVERY_S)
                load.wait_until_it_works()
            with database_of(data) as mongo:
                events = stored(events_of(mongo))
                violations = compare(ledger, (event for event in events if "mark" in event["data"]), [])
            assert server.stop() == 0
    assert ledger.improper == {}
    assert violations == Violations()
    assert ledger.acknowledged_events.total() > 0


def database_of(data: Path) -> MongoClient:
    """A client of the database in the directory."""
    return pymongo.MongoClient(State.load(data).url(data), uuidRepresentation="standard", tz_aware=True)


def other() -> dict[str, object]:
    """A batch that is not of the load."""
    return batch(source="other")
