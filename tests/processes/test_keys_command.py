"""`sluice keys` as an operator uses it: beside a running server, and without one."""

import json
import os
import re
import socket
import uuid
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests.support.harness import Json, MongoClient, Server, batch, sluice
from tests.support.keys import CREATED, EVENTS, listed, statement, status

LISTED = [*(field for field in CREATED if field != "key"), "revoked_at", "last_used_at", "previous_secret_valid_until"]

SECRET = re.compile(r"slc_[A-Za-z0-9_-]{43,}")

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?")


@pytest.fixture(scope="module")
def made(server: Server) -> Json:
    """A key that was created with a tenant and no other option."""
    return server.create_key("plain")


def test_create_prints_the_key_once(server: Server, made: Json) -> None:
    assert list(made) == CREATED
    assert SECRET.fullmatch(made["key"])
    assert str(uuid.UUID(made["id"])) == made["id"]
    assert str(uuid.UUID(made["tenant_id"])) == made["tenant_id"]
    assert (made["tenant"], made["name"]) == ("plain", "")
    assert made["scopes"] == ["events:write", "events:read", "rules:read", "rules:write"]
    assert made["allowed_domains"] == []
    assert made["rate_limit"] == 1000
    assert TIME.fullmatch(made["created_at"])
    age = datetime.now(UTC) - datetime.fromisoformat(made["created_at"]).replace(tzinfo=UTC)
    assert timedelta() <= age < timedelta(minutes=10)
    (again,) = listed(server, "--tenant", "plain")
    assert list(again) == LISTED
    assert {**again, "key": made["key"]} == {**made, **dict.fromkeys(LISTED[-3:])}
    with server.client(made["key"]) as client:
        receipt = client.post(EVENTS, json=batch()).json()
    assert receipt["events"][0]["tenant_id"] == made["tenant_id"]


def test_create_with_every_option(server: Server) -> None:
    words = ("--name", "Nächtlicher Import", "--rate-limit", "0", "--scope", "events:read", "--scope", "events:read")
    domains = ("--allow-domain", "Example.com", "--allow-domain", "*.example.org", "--allow-domain", "example.com")
    key = server.create_key("größe-1", *words, *domains)
    assert list(key) == CREATED
    assert (key["tenant"], key["name"], key["rate_limit"]) == ("größe-1", "Nächtlicher Import", 0)
    assert key["scopes"] == ["events:read"]
    assert key["allowed_domains"] == ["example.com", "*.example.org"]
    origins = {"https://example.com": 200, "http://a.example.org:8080": 200, "https://example.org": 403, "null": 403}
    with server.client(key["key"]) as client:
        assert {origin: client.get(EVENTS, headers={"Origin": origin}).status_code for origin in origins} == origins
        assert client.post(EVENTS, json=batch()).json()["code"] == "insufficient_scope"


def test_plain_create_prints_nothing_but_the_secret_on_stdout(server: Server) -> None:
    done = sluice("keys", "create", "--tenant", "people", "--name", "by hand", *server.database_options)
    assert done.returncode == 0
    assert re.fullmatch(SECRET.pattern + "\n", done.stdout)
    assert done.stdout.strip() not in done.stderr
    database, hint = done.stderr.splitlines()
    assert database.startswith(statement(server))
    assert "people" in hint
    assert status(server, done.stdout.strip()) == 200


def test_a_tenant_is_made_once(server: Server, made: Json) -> None:
    again, other = server.create_key("plain", "--name", "second"), server.create_key("Plain")
    assert again["tenant_id"] == made["tenant_id"]
    assert again["id"] != made["id"]
    assert again["key"] != made["key"]
    assert other["tenant_id"] != made["tenant_id"]
    assert [status(server, key["key"]) for key in (made, again, other)] == [200, 200, 200]


def test_only_the_hash_is_kept(server: Server, made: Json, mongo: MongoClient) -> None:
    text = str(list(mongo.sluice["keys"].find()))
    assert made["id"] in text
    for secret in (made["key"], made["key"].removeprefix("slc_"), server.first_key):
        assert secret not in text


def test_list_is_by_age_and_by_tenant(server: Server, made: Json) -> None:
    first, second = server.create_key("pair", "--name", "first"), server.create_key("pair", "--name", "second")
    every = [key["id"] for key in listed(server)]
    assert [item for item in every if item in {made["id"], first["id"], second["id"]}] == [
        made["id"],
        first["id"],
        second["id"],
    ]
    assert [key["name"] for key in listed(server, "--tenant", "pair")] == ["first", "second"]
    assert listed(server, "--tenant", "nobody") == []


def test_plain_list_is_a_table(server: Server, made: Json) -> None:
    done = sluice("keys", "list", "--tenant", "plain", *server.database_options)
    assert done.returncode == 0
    heads, row, *_ = done.stdout.splitlines()
    assert heads.split()[:3] == ["ID", "TENANT", "NAME"]
    assert row.startswith(made["id"])
    assert row.endswith("active")
    assert "slc_" not in done.stdout + done.stderr
    assert done.stderr.startswith(statement(server))


def test_rotated_and_revoked_keys_stop_at_once_on_every_worker(server: Server) -> None:
    key = server.create_key("turning", "--rate-limit", "0")
    with ExitStack() as stack:
        # The kernel spreads connections over the workers at random: of 32, some go to each.
        clients = [stack.enter_context(server.client()) for _ in range(32)]
        assert statuses(clients, key["key"]) == {200}
        done = sluice("keys", "rotate", key["id"], "--json", *server.database_options)
        assert statuses(clients, key["key"]) == {401}
        assert done.returncode == 0
        assert done.stderr.startswith(statement(server))
        rotated = json.loads(done.stdout)
        assert list(rotated) == CREATED
        assert SECRET.fullmatch(rotated["key"])
        assert {**rotated, "key": key["key"]} == key
        assert statuses(clients, rotated["key"]) == {200}
        done = sluice("keys", "revoke", key["id"], *server.database_options)
        assert statuses(clients, rotated["key"]) == {401}
        assert (done.returncode, done.stdout) == (0, f"revoked {key['id']} of tenant turning\n")
        assert done.stderr.startswith(statement(server))
    (found,) = listed(server, "--tenant", "turning")
    assert TIME.fullmatch(found["revoked_at"])
    assert found["revoked_at"] >= found["created_at"]
    assert sluice("keys", "list", "--tenant", "turning", *server.database_options).stdout.endswith("revoked\n")
    for command in ("rotate", "revoke"):  # a revoked key stays revoked
        assert sluice("keys", command, key["id"], *server.database_options).returncode == 1
    (still,) = listed(server, "--tenant", "turning")
    del still["last_used_at"], found["last_used_at"]  # the server updates it now and then
    assert still == found


def statuses(clients: list[httpx.Client], secret: str) -> set[int]:
    """The statuses that a request with this key gets on these connections."""
    return {client.get(EVENTS, headers={"X-API-Key": secret}).status_code for client in clients}


def test_plain_rotate_prints_nothing_but_the_secret_on_stdout(server: Server) -> None:
    key = server.create_key("turning-plainly")
    done = sluice("keys", "rotate", key["id"], *server.database_options)
    assert re.fullmatch(SECRET.pattern + "\n", done.stdout)
    assert [status(server, secret) for secret in (key["key"], done.stdout.strip())] == [401, 200]


@pytest.mark.parametrize("command", ["rotate", "revoke"])
@pytest.mark.parametrize("key_id", ["00000000-0000-7000-8000-000000000000", "nonsense", "", "a b\nc"], ids=repr)
def test_unknown_key_is_one_line(server: Server, command: str, key_id: str) -> None:
    done = sluice("keys", command, key_id, *server.database_options)
    assert (done.returncode, done.stdout) == (1, "")
    database, complaint = done.stderr.splitlines()
    assert database.startswith(statement(server))
    assert complaint.startswith("sluice: ")
    assert "sluice keys list" in complaint


def test_other_driver_does_the_same(server: Server) -> None:
    options = ("--driver", "pymongo", *server.database_options)
    done = sluice("keys", "create", "--tenant", "driven", "--json", *options)
    key = json.loads(done.stdout)
    assert list(key) == CREATED
    assert done.stderr.startswith(statement(server))
    assert status(server, key["key"]) == 200
    rotated = json.loads(sluice("keys", "rotate", key["id"], "--json", *options).stdout)
    assert [status(server, secret) for secret in (key["key"], rotated["key"])] == [401, 200]
    assert sluice("keys", "revoke", key["id"], *options).returncode == 0
    assert status(server, rotated["key"]) == 401
    (found,) = json.loads(sluice("keys", "list", "--tenant", "driven", "--json", *options).stdout)
    assert found["revoked_at"]
    assert sluice("keys", "revoke", key["id"], *options).returncode == 1


@pytest.mark.slow
def test_without_a_server_the_database_runs_for_the_command_only(tmp_path: Path) -> None:
    server = Server(tmp_path / "data")
    key = server.create_key("early", "--new")
    assert_no_database_runs(server)
    assert [item["id"] for item in listed(server)] == [key["id"]]
    assert sluice("keys", "revoke", "unknown", *server.database_options).returncode == 1
    assert_no_database_runs(server)
    secrets = [key["key"]]
    with server:
        assert "slc_" not in server.output
        assert status(server, key["key"]) == 200
        secrets.append(server.create_key("late")["key"])
        assert status(server, secrets[1]) == 200
        (early, late) = listed(server)
        assert (early["tenant"], late["tenant"]) == ("early", "late")
        unused = server.create_key("unused")
        assert server.stop() == 0
    used = {item["tenant"]: item["last_used_at"] for item in listed(server)}
    assert used["unused"] is None
    for tenant in ("early", "late"):
        assert TIME.fullmatch(used[tenant])
        age = datetime.now(UTC) - datetime.fromisoformat(used[tenant]).replace(tzinfo=UTC)
        assert timedelta() <= age < timedelta(minutes=2)
    files = [path for path in server.data_dir.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wt" for path in files)
    for path in files:
        content = path.read_bytes()
        for secret in (*secrets, unused["key"]):
            assert secret.removeprefix("slc_").encode() not in content, path
    assert_no_database_runs(server)


def assert_no_database_runs(server: Server) -> None:
    """No process listens on the port of the embedded database, or works in its directory."""
    port = json.loads((server.data_dir / "mongod.json").read_text())["port"]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    for command_line in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert os.fsencode(server.data_dir) not in command_line.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
