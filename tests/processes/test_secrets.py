"""No part of a user name or password in any output, whatever characters they have."""

import os
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pymongo.errors import PyMongoError

from server.cli.credentials import without_credentials
from server.cli.main import explain
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
    line = without_credentials(f"No such command 'mongodb://{user}:{password}@host/'.")
    assert [part for part in parts(user) | parts(password) if part in line] == []


URL_FORMS = [
    "mongodb://QXuser:QXw0rd@host/",
    "MongoDB+SRV://QXuser:QXw0rd@host/",
    "mongodb:/QXuser:QXw0rd@host/",
    "mongodb://QXuser:QXw0rd",  # the shell ended it at a `&` of the password
    "postgres://QXuser:QXw0rd@host/",
]

PLACES = {
    "data directory": ("keys", "list", "--data-dir", "URL"),
    "new data directory": ("keys", "create", "--new", "--tenant", "a", "--data-dir", "URL"),
    "data directory to serve": ("serve", "--port", "0", "--grpc-port", "0", "--data-dir", "URL"),
    "data directory of the printed URL": ("database-url", "--data-dir", "URL"),
    "database": ("keys", "list", "--database", "URL"),
    "driver": ("keys", "list", "--driver", "URL"),
    "tenant": ("keys", "create", "--new", "--tenant", "URL"),
    "tenant that an empty variable left out": ("keys", "create", "--new", "--tenant", "--mongodb-url=URL"),
    "tenant to list": ("keys", "list", "--tenant", "URL"),
    "key's name": ("keys", "create", "--new", "--tenant", "a", "--name", "URL"),
    "scope": ("keys", "create", "--new", "--tenant", "a", "--scope", "URL"),
    "domain": ("keys", "create", "--new", "--tenant", "a", "--allow-domain", "URL"),
    "rate limit": ("keys", "create", "--new", "--tenant", "a", "--rate-limit", "URL"),
    "key": ("keys", "revoke", "URL"),
    "surplus argument": ("keys", "revoke", "--", "--mongodb-url", "URL"),
    "option": ("keys", "list", "--URL"),
    "command": ("URL",),
    "command to explain": ("help", "URL"),
    "host": ("serve", "--host", "URL"),
    "port": ("serve", "--port", "URL"),
    "certificate": ("serve", "--tls-cert", "URL", "--tls-key", "URL"),
    "log format": ("serve", "--log-format", "URL"),
}


def check_hidden(url: str, *words: str, env: dict[str, str] | None = None) -> None:
    """A command with this URL at the place of the word URL fails with one line, which shows none of it."""
    done = sluice(*(word.replace("URL", url) for word in words), env=env)
    said = done.stdout + done.stderr
    assert (done.returncode, len(said.splitlines())) == (2, 1), (url, words, env)
    assert "QX" not in said, (url, words, env)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_url_in_another_place_is_not_shown(folder: Path) -> None:
    for words in PLACES.values():
        check_hidden(URL_FORMS[0], *words)
    for name in ("DATA_DIR", "DATABASE", "HOST", "WORKERS", "TLS_CERT", "LOG_LEVEL", "MONGODB_URL_FILE"):
        check_hidden(URL_FORMS[0], "serve", env={f"SLUICE_{name}": URL_FORMS[0]})
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("url", URL_FORMS[1:])
def test_a_url_of_any_form_is_not_shown(folder: Path, url: str) -> None:
    for place in ("data directory", "new data directory", "database", "tenant", "command"):
        check_hidden(url, *PLACES[place])
    assert list(folder.iterdir()) == []


def test_a_user_and_password_without_a_scheme_are_not_quoted(tmp_path: Path) -> None:
    for words in (("keys", "list", "--database"), ("serve", "--port"), ("serve", "--host"), ("keys",)):
        done = sluice(*words, "QXuser:QXw0rd@host", env={"SLUICE_DATA_DIR": str(tmp_path / "data")})
        assert done.returncode == 2, words
        assert "QX" not in done.stdout + done.stderr, words


def test_a_name_that_only_looks_like_the_beginning_of_a_url_is_one(tmp_path: Path) -> None:
    data_dir = tmp_path / "mongodb:27017"
    done = sluice("keys", "list", "--data-dir", str(data_dir))
    assert f"there is no database in {data_dir}: name the directory" in done.stderr


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


OPTIONS_AT_FAULT = {
    "a:1,b:2/?directConnection=true": "directConnection",
    "h/?w=1&authMechanism=PLAIN": "authMechanism",
    "h/?authMechanism=QXZ": "authMechanism",
    "h/?maxPoolSize=QXZ&w=1": "maxPoolSize",
    "h/?readPreference=QXZ": "readPreference",
    "h/?replicaSet=QXZ&loadBalanced=true": "replicaSet",
    "h/?tlsCertificateKeyFilePassword=QXZ&tls=QXZ": "tls",
    "h/?compressors=QXZ": "compressors",
}


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
@pytest.mark.parametrize(("rest", "option"), OPTIONS_AT_FAULT.items(), ids=OPTIONS_AT_FAULT.values())
def test_an_option_that_is_not_taken_is_named_without_its_value(driver: Driver, rest: str, option: str) -> None:
    said = outcome(f"mongodb://{rest}", driver)
    assert f"the option {option} of --mongodb-url " in said
    assert "QX" not in said


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
def test_an_option_that_no_driver_knows_is_not_shown(driver: Driver) -> None:
    said = outcome("mongodb://h/?QXZ=QXZ&w=1", driver)
    assert "has an option that MongoDB drivers do not know" in said
    assert "QX" not in said


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
@pytest.mark.parametrize("compressors", ["snappy", "zlib,zstd,snappy"])
def test_a_compressor_without_its_library_is_left_out(driver: Driver, compressors: str) -> None:
    assert outcome(f"mongodb://h:1/?compressors={compressors}", driver) == "at h:1"


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
                said = (other.stderr() + other.output).replace(other.first_key, "")  # it may have any letters
        except PyMongoError:
            mongo.admin.command("dropUser", user)
            raise
    assert f"at {address}" in said
    assert "QX" not in said
    assert "w0rd" not in said
