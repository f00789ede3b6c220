"""No part of a user name or password in any output, whatever characters they have."""

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pymongo.errors import PyMongoError

from server.cli.main import CREDENTIALS, explain
from server.core.errors import ConfigurationError
from server.runtime.database import describe_location
from server.settings import DatabaseSettings, Driver
from storage.client import connect
from tests.support.harness import Server, sluice

ODD = "@#[]/?:%&=,+ \\\"'<>{}|^`~;!$"
SECRET_TEXT = st.text(st.sampled_from("QXZJqxzj7843é" + ODD), min_size=3, max_size=12)

PART = 3
"""The shortest part of a secret that tells something of it."""

NEUTRAL = "mongodb://HOST:PORT/?replicaSet=NAME"


def parts(secret: str) -> set[str]:
    """The parts of a secret, as it is and percent-encoded, but for those of odd characters that any URL has."""
    forms = (secret, quote(secret, safe=""))
    found = {form[start : start + PART] for form in forms for start in range(len(form) - PART + 1)}
    return {part for part in found if any(map(str.isalnum, part)) and part.lower() not in NEUTRAL.lower()}


def outcome(url: str, driver: Driver) -> str:
    """What a command says about a database at this URL: its error, or where the database is."""
    try:
        connect(url, driver)
        chosen = DatabaseSettings(mongodb_url=url, database="sluice", data_dir=".", driver=driver)
        return describe_location(chosen, is_new=False)
    except ConfigurationError as error:
        return explain(error)[1]


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
@settings(deadline=None, max_examples=300)
@given(SECRET_TEXT, SECRET_TEXT, st.sampled_from(["", "#[]", "#[]/?", ODD]), st.sampled_from(["", "?appName=b", "/db"]))
@example("user", "p#ssw0rd", "#", "?authSource=admin")
@example("QX7", "843/zjq", "/", "")
@example("QX7", "843?appName=zjq", "/?=", "/?authSource=admin")
@example("QX7", "84@XZJ/QXZ", "@/", "?appName=b")
def test_no_part_of_a_secret_is_shown(driver: Driver, user: str, password: str, safe: str, rest: str) -> None:
    """`safe` are the characters that whoever wrote the URL did not encode."""
    url = f"mongodb://{quote(user, safe=safe)}:{quote(password, safe=safe)}@127.0.0.1:1{rest}"
    said = outcome(url, driver)
    assert "\n" not in said
    shown = said.lower()
    assert [part for part in parts(user) | parts(password) if part.lower() in shown] == []
    if not safe:
        assert said == "at 127.0.0.1:1"


@given(SECRET_TEXT, SECRET_TEXT)
def test_no_part_of_a_secret_is_quoted_back(user: str, password: str) -> None:
    """A URL at a wrong place: an argument that the command line quotes in its error."""
    line = CREDENTIALS.sub(r"\1...@", f"No such command 'mongodb://{user}:{password}@host/'.")
    assert [part for part in parts(user) | parts(password) if part in line] == []


LEGAL = {
    "hash": ("p#ssw0rd", "#"),
    "bracket": ("p[ss", "["),
    "brackets": ("x[1]y", "[]"),
    "encoded": ("a@b/c?d:e%f", ""),
    "quotes": ("a'b\"c d", "'\" "),
}


@pytest.mark.parametrize(("password", "safe"), LEGAL.values(), ids=LEGAL)
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
def test_every_password_that_the_driver_takes_works(server: Server, password: str, safe: str, driver: str) -> None:
    user = "odd#user[1]"
    with server.mongo() as mongo:
        address = f"{mongo.address[0]}:{mongo.address[1]}" if mongo.address else ""
        mongo.admin.command("createUser", user, pwd=password, roles=["root"])
        try:
            url = f"mongodb://{quote(user, safe='#[]')}:{quote(password, safe=safe)}@{address}/"
            url += "?authSource=admin&directConnection=true"
            done = sluice("keys", "list", "--driver", driver, "--mongodb-url", url)
        finally:
            mongo.admin.command("dropUser", user)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"database: sluice at {address} (MongoDB ")
    assert user not in done.stderr
    assert password not in done.stderr


@pytest.mark.parametrize("command", [("keys", "list"), ("serve", "--port", "0", "--grpc-port", "0")], ids=" ".join)
@pytest.mark.parametrize(
    "url",
    [
        "mongodb://QXuser:QXp4ss/w0rd@127.0.0.1:1/",
        "mongodb://QXuser:12?appName=QXp4ss@127.0.0.1:1/",
        "mongodb://QXuser:QXp@ss@127.0.0.1:1/",
        "mongodb://QXuser:QXp#ss@127.0.0.1:1/?serverSelectionTimeoutMS=1",
        "mongodb://QXuser@QXdomain:QXp4ss@127.0.0.1:1/",
        "mongodb+srv://QXuser:QXp4ss@nothing.invalid/",
    ],
)
def test_commands_show_none_either(tmp_path: Path, command: tuple[str, ...], url: str) -> None:
    wrong = sluice(*command, url)  # as an argument, not as the value of an option
    done = sluice(*command, "--data-dir", str(tmp_path), env={"SLUICE_MONGODB_URL": url})
    for said in (wrong, done):
        assert said.returncode in (1, 2)
        assert "QX" not in said.stdout + said.stderr
        assert "w0rd" not in said.stdout + said.stderr
        assert len(said.stderr.splitlines()) == 1


def test_the_log_of_a_server_shows_none(server: Server, tmp_path: Path) -> None:
    user, password = "QXuser#1", "QXp4ss[w0rd]"
    with server.mongo() as mongo:
        assert mongo.address is not None
        address = f"{mongo.address[0]}:{mongo.address[1]}"
        mongo.admin.command("createUser", user, pwd=password, roles=["root"])
        url = f"mongodb://{user}:{password}@{address}/?authSource=admin&directConnection=true"
        try:
            with Server(tmp_path, "--mongodb-url", url, "--database", "other", "--log-level", "debug") as other:
                mongo.admin.command("dropUser", user)
                with other.client(other.first_key) as client:
                    client.get("/api/v1/events")
                other.stop()
                said = other.stderr() + other.output
        except PyMongoError:
            mongo.admin.command("dropUser", user)
            raise
    assert f"at {address}" in said
    assert "QX" not in said
    assert "w0rd" not in said
