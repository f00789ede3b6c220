"""`sluice check` finds what is wrong with real databases, clocks, files and limits, and shows no secret."""

import contextlib
import os
import pty
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.processes.test_database_users import DOCUMENTS, url_of, user_with
from tests.processes.test_tls_files import certificate
from tests.support.harness import MongoClient, Server, sluice
from tests.support.mongod import Mongod, secured
from tests.support.ports import free_port
from tests.support.relay import CHUNK_BYTES, Relay, shut

LINE = re.compile(r"(OK|WARN|FAIL) +(\S+(?: \S+)*)  +(\S.*)")

TIMEOUT_S = 60

Found = dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Mongod:
    return Mongod(tmp_path_factory.mktemp("mongod") / "db")


@pytest.fixture(scope="module")
def mongo(mongod: Mongod) -> Iterator[MongoClient]:
    with secured(mongod) as client:
        yield client


@pytest.fixture
def good(mongod: Mongod, mongo: MongoClient) -> list[str]:
    """The options for a new database, whose user has the role that the README names."""
    name = f"u{uuid.uuid4().hex}"
    mongo.admin.command("createUser", name, pwd="p", roles=[{"role": "readWrite", "db": name}])
    return ["--mongodb-url", url_of(name, mongod), "--database", name]


def check(status: int, *options: str, before: tuple[str, ...] = ()) -> Found:
    """What `sluice check` finds: level and text by name. `before` is a program that runs it."""
    if before:
        command = [*before, sys.executable, "-m", "server", "check", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    else:
        done = sluice("check", *options)
    assert done.returncode == status, done.stdout + done.stderr
    assert "internal error" not in done.stderr
    assert "Traceback" not in done.stderr
    *lines, last = done.stdout.splitlines()
    found: Found = {}
    for line in lines:
        match = LINE.fullmatch(line)
        assert match is not None, line
        found[match[2]] = (match[1], match[3])
    levels = [level for level, _ in found.values()]
    counts = ", ".join(f"{levels.count(level)} {level}" for level in ("OK", "WARN", "FAIL"))
    assert last == f"{len(levels)} checks: {counts}"
    assert (status == 1) == ("FAIL" in levels)
    return found


def bad(found: Found) -> dict[str, str]:
    """The names of what is not OK, and their levels."""
    return {name: level for name, (level, _) in found.items() if level != "OK"}


def test_a_good_deployment_is_ok(good: list[str]) -> None:
    found = check(0, *good)
    assert bad(found) == {}
    names = ["options", "open files", "TLS", "database", "version", "replica set", "permissions", "collections"]
    assert list(found) == [*names, "write concern", "oplog", "clock"]


def test_a_wrong_password_is_found(good: list[str]) -> None:
    good[1] = good[1].replace(":p@", ":wrong-secret@")
    found = check(1, *good)
    assert bad(found) == {"database": "FAIL"}
    assert "refuses the user or password" in found["database"][1]
    assert "wrong-secret" not in str(found)


def test_a_missing_user_is_found(good: list[str]) -> None:
    good[1] = re.sub("//.*@", "//", good[1]).replace("&authSource=admin", "")
    assert bad(check(1, *good)) == {"permissions": "FAIL"}


def test_a_database_that_is_away_is_found() -> None:
    url = f"mongodb://user:secret@127.0.0.1:{free_port()}/?directConnection=true"
    found = check(1, "--mongodb-url", url)
    assert bad(found) == {"database": "FAIL"}
    assert "cannot be reached" in found["database"][1]
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("actions", "missing"),
    [
        (DOCUMENTS, "changeStream, createCollection, dropCollection, createIndex"),
        (["find", "listCollections", "listIndexes"], "changeStream, createCollection, dropCollection, insert, update"),
    ],
)
def test_missing_rights_are_named(mongod: Mongod, mongo: MongoClient, actions: list[str], missing: str) -> None:
    found = check(1, *user_with(actions, mongod, mongo))
    assert bad(found) == {"permissions": "FAIL"}
    assert f"lacks {missing}" in found["permissions"][1]
    assert "grant it the role readWrite" in found["permissions"][1]


def test_a_small_oplog_is_found_by_who_may_see_it(mongod: Mongod, mongo: MongoClient) -> None:
    assert mongo.admin.command("ping")
    found = check(0, "--mongodb-url", f"mongodb://admin:p@{mongod.host}/?directConnection=true&authSource=admin")
    assert bad(found) == {"oplog": "WARN"}
    assert "the oplog has 100 MiB: enlarge it" in found["oplog"][1]


def test_a_short_oplog_is_found_by_who_may_not_see_it(mongo: MongoClient, good: list[str]) -> None:
    mongo.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=HISTORY_IS_LOST)
    try:
        found = check(0, *good)
    finally:
        mongo.admin.command("configureFailPoint", "failCommand", mode="off")
    assert bad(found) == {"oplog": "WARN"}
    assert "does not reach back 24 hours" in found["oplog"][1]


HISTORY_IS_LOST = {"failCommands": ["aggregate"], "appName": "sluice", "errorCode": 286}
"""What MongoDB responds if a change stream is to begin before the oldest entry of the oplog."""


def test_a_standalone_server_is_found(tmp_path: Path) -> None:
    with Mongod(tmp_path / "db", standalone=True) as mongod:
        found = check(1, "--mongodb-url", mongod.url)
    assert bad(found) == {"replica set": "FAIL"}
    assert "standalone server" in found["replica set"][1]


class OlderMongod(Relay):
    """Forwards to a mongod 6.0, which then says that it is 5.0: no older one runs on current systems."""

    def __init__(self, url: str, version: str) -> None:
        super().__init__(url, sys.maxsize)
        self._version = version.encode()

    def _forward_responses(self, server: socket.socket, database: socket.socket, _: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while chunk := database.recv(CHUNK_BYTES):
                server.sendall(chunk.replace(self._version, b"5" + self._version[1:]))
        shut(server, database)


def test_an_old_version_is_found(mongo: MongoClient, good: list[str]) -> None:
    url = good[1]
    version: str = mongo.server_info()["version"]
    with OlderMongod(re.sub("//.*@", "//", url), version) as relay:
        good[1] = re.sub("(?<=@)[^/]*", relay.url.removeprefix("mongodb://").partition("/")[0], url)
        found = check(1, *good)
    assert bad(found) == {"version": "FAIL"}
    assert f"MongoDB 5{version[1:]} is too old" in found["version"][1]


@pytest.mark.skipif(shutil.which("faketime") is None, reason="needs Debian's faketime")
@pytest.mark.parametrize(("offset", "words"), [("+5s", "5.0 s ahead of"), ("-5s", "5.0 s behind")])
def test_a_clock_that_is_off_is_found(good: list[str], offset: str, words: str) -> None:
    found = check(1, *good, before=("faketime", "-f", offset))
    assert bad(found) == {"clock": "FAIL"}
    assert words in found["clock"][1]
    assert "NTP" in found["clock"][1]


CERTIFICATES = {
    "expired": (timedelta(days=-90), timedelta(days=-2), "FAIL", "expired on"),
    "soon": (timedelta(days=-90), timedelta(days=3, hours=1), "WARN", "in 3 days"),
    "not yet": (timedelta(days=2), timedelta(days=90), "FAIL", "is valid from"),
    "good": (timedelta(days=-2), timedelta(days=90), "OK", "is valid until"),
}
"""From when and until when they are valid, seen from now."""


@pytest.mark.parametrize("name", CERTIFICATES)
def test_the_dates_of_certificates_are_checked(tmp_path: Path, name: str) -> None:
    begin, end, level, words = CERTIFICATES[name]
    now = datetime.now(UTC)
    options = certificate(tmp_path, now + begin, now + end)
    found = check(int(level == "FAIL"), *options, "--data-dir", str(tmp_path / "none"))
    assert bad(found) == ({} if level == "OK" else {"TLS": level})
    assert words in found["TLS"][1]
    assert not (tmp_path / "none").exists()  # a check makes no database
    assert "sluice serve makes it there" in found["database"][1]


@pytest.mark.parametrize("place", ["/proc/none", "file", "file/below"])
def test_a_data_directory_that_cannot_be_made_is_found(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    found = check(1, "--data-dir", str(tmp_path / place))
    assert bad(found) == {"database": "FAIL"}
    assert f"{tmp_path / place} cannot be used" in found["database"][1]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_key_that_does_not_fit_is_found(tmp_path: Path, certificates: Path) -> None:
    options = ["--tls-cert", str(certificates / "server.pem"), "--tls-key", str(certificates / "ca.key")]
    found = check(1, *options, "--data-dir", str(tmp_path / "none"))
    assert bad(found) == {"TLS": "FAIL"}


@pytest.mark.parametrize(("limit", "level"), [(200, "FAIL"), (1_000, "WARN"), (10_000, "OK")])
def test_a_low_limit_on_open_files_is_found(tmp_path: Path, limit: int, level: str) -> None:
    before = ("bash", "-c", f'ulimit -n {limit}; exec "$@"', "bash")
    found = check(int(level == "FAIL"), "--data-dir", str(tmp_path / "none"), before=before)
    assert found["open files"][0] == level
    assert ("LimitNOFILE=65536" in found["open files"][1]) == (level != "OK")


def test_the_database_of_a_running_server_is_ok(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        found = check(0, "--data-dir", str(tmp_path))
        assert bad(found) == {}
        assert found["database"][1] == f"sluice embedded in {tmp_path}"
        assert server.stop() == 0


def test_a_collection_in_the_way_is_found(mongo: MongoClient, good: list[str]) -> None:
    mongo[good[3]].create_collection("events", capped=True, size=10_000)
    assert bad(check(1, *good)) == {"collections": "FAIL"}


@pytest.mark.parametrize(
    "options", [["--port", "x"], ["--tls-cert", "/nowhere"], ["--nonsense"], ["--database", "mongodb://u:secret@h"]]
)
def test_bad_usage_is_one_line(options: list[str]) -> None:
    done = sluice("check", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "secret" not in done.stderr


def test_a_terminal_gets_columns(tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    command = [sys.executable, "-m", "server", "check", "--data-dir", str(tmp_path / "none")]
    environment = {**os.environ, "COLUMNS": "70"}
    process = subprocess.Popen(command, stdout=end, stderr=subprocess.DEVNULL, stdin=end, env=environment)
    os.close(end)
    output, ends = b"", time.monotonic() + TIMEOUT_S
    with contextlib.suppress(OSError):  # the other end is closed
        while time.monotonic() < ends and (chunk := os.read(terminal, 10_000)):
            output += chunk
    os.close(terminal)
    assert process.wait(TIMEOUT_S) == 0
    lines = output.decode().splitlines()
    assert all(len(line) <= 70 or " " not in line.strip() for line in lines), lines
    assert all(re.match(r"(OK|WARN|FAIL) |  +\S|[0-9]+ checks: ", line) for line in lines), lines
