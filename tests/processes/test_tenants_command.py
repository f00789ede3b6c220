"""`sluice tenants` as an operator uses it: what it shows, refuses and asks."""

import json
import os
import pty
import subprocess
import sys
import unicodedata

import pytest

from server.core.errors import ConfigurationError, NotFound
from tests.support.harness import Json, MongoClient, Server, batch, sluice
from tests.support.reading import EVENTS
from tests.support.tenants import events_of, insert_old, tenants

FIELDS = ["name", "id", "created_at", "retention_days", "keys", "last_event_at", "is_being_deleted"]

ODD_NAMES = ["größe-東京", "--yes", "50%", "$cmd", "a..b.", "system.logs", "x" * 64, "none"]


def shown(server: Server, name: str) -> Json:
    """What `tenants show` prints."""
    found: Json = json.loads(tenants(server, "show", "--json", "--", name).stdout)
    return found


def test_a_tenant_is_shown(server: Server, key: Json, mongo: MongoClient) -> None:
    assert list(shown(server, key["tenant"])) == [*FIELDS, "events"]
    assert shown(server, key["tenant"]) | {"created_at": ""} == {
        "name": key["tenant"],
        "id": key["tenant_id"],
        "created_at": "",
        "retention_days": None,
        "keys": 1,
        "last_event_at": None,
        "is_being_deleted": False,
        "events": 0,
    }
    second = server.create_key(key["tenant"])
    insert_old(mongo, key, 3, 1)
    with server.client(key["key"]) as client:
        received = client.post(EVENTS, json=batch(2)).json()["events"][0]["received_at"]
    found = shown(server, key["tenant"])
    assert (found["keys"], found["events"]) == (2, 5)
    assert found["last_event_at"].startswith(received)
    assert found["created_at"] <= second["created_at"]
    listed = json.loads(tenants(server, "list", "--json").stdout)
    assert {**found, "events": None} == {
        **next(each for each in listed if each["name"] == key["tenant"]),
        "events": None,
    }
    assert [each["name"] for each in listed] == sorted(each["name"] for each in listed)


def test_tables(server: Server, key: Json) -> None:
    tenants(server, "set-retention", key["tenant"], "400")
    heads, row = tenants(server, "show", key["tenant"]).stdout.splitlines()
    assert heads.split() == ["NAME", "ID", "CREATED", "RETENTION", "KEYS", "LAST", "EVENT", "STATE", "EVENTS"]
    assert row.split()[3:] == ["400", "days", "1", "-", "active", "0"]
    assert any(line.startswith(key["tenant"]) for line in tenants(server, "list").stdout.splitlines())


def test_retention_of_odd_names(server: Server) -> None:
    for name in ODD_NAMES:
        server.create_key(name)
        result = tenants(server, "set-retention", "--", name, "30")
        assert (result.exit_code, shown(server, name)["retention_days"]) == (0, 30)
    for name in ODD_NAMES:
        assert shown(server, name)["retention_days"] == 30
        assert tenants(server, "set-retention", "--", name, "none").exit_code == 0
        assert shown(server, name)["retention_days"] is None
    decomposed = unicodedata.normalize("NFD", ODD_NAMES[0])
    assert decomposed != ODD_NAMES[0]
    assert shown(server, decomposed)["name"] == ODD_NAMES[0]


@pytest.mark.parametrize("days", ["0", "-1", "1.5", "36501", "", "None", "٣", "9" * 30])
def test_other_days_are_refused(server: Server, key: Json, days: str) -> None:
    done = sluice("tenants", "set-retention", *server.database_options, "--", key["tenant"], days)
    assert (done.returncode, done.stdout) == (2, "")
    assert "36500" in done.stderr


@pytest.mark.parametrize("command", [["show"], ["set-retention", "30"], ["delete", "--yes"]])
def test_an_unknown_tenant(server: Server, command: list[str]) -> None:
    result = tenants(server, command[0], "nobody", *command[1:])
    assert isinstance(result.exception, NotFound)
    assert "tenants list" in str(result.exception)


def test_nothing_is_deleted_without_the_name(server: Server, key: Json, mongo: MongoClient) -> None:
    insert_old(mongo, key, 3, 1)
    without = tenants(server, "delete", key["tenant"])
    assert isinstance(without.exception, ConfigurationError)
    assert "--yes" in str(without.exception)
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "server", "tenants", "delete", key["tenant"], *server.database_options]
    os.write(controller, b"another\n")
    done = subprocess.run(command, stdin=terminal, capture_output=True, text=True, timeout=60, check=False)
    os.close(controller)
    os.close(terminal)
    assert done.returncode == 2
    assert "3 events" in done.stderr
    assert done.stderr.endswith("sluice: nothing was deleted: this is not the name of the tenant\n")
    assert len(list(events_of(mongo, key))) == 3
    assert shown(server, key["tenant"])["is_being_deleted"] is False
