"""The command line: bad usage is one line on stderr, and options and environment variables do the same."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.harness import Server, sluice
from tests.support.keys import listed, statement, status

SCRIPT = [str(Path(sys.executable).with_name("sluice"))]

MODULE = [sys.executable, "-m", "server"]

CREATE = ("keys", "create", "--tenant", "acme")

BAD_USAGE: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown command": (("kyes",), "kyes"),
    "unknown keys command": (("keys", "delete"), "delete"),
    "unknown option": ((*CREATE, "--tennant", "b"), "--tennant"),
    "surplus argument": ((*CREATE, "more"), "more"),
    "no tenant": (("keys", "create"), "--tenant"),
    "tenant without a value": (("keys", "create", "--tenant"), "--tenant"),
    "tenant empty": (("keys", "create", "--tenant", ""), "--tenant"),
    "tenant long": (("keys", "create", "--tenant", "a" * 65), "--tenant"),
    "tenant with a space": (("keys", "create", "--tenant", "a b"), "--tenant"),
    "tenant with a line": (("keys", "create", "--tenant", "a\n"), "--tenant"),
    "tenant with a control character": (("keys", "create", "--tenant", "a\x1b[1m"), "--tenant"),
    "tenant with an invisible character": (("keys", "create", "--tenant", "a\u200b"), "--tenant"),
    "tenant with a wide space": (("keys", "create", "--tenant", "a\u3000b"), "--tenant"),
    "tenant not UTF-8": (("keys", "create", "--tenant", "a\udcff"), "UTF-8"),
    "name not UTF-8": ((*CREATE, "--name", "\udcff"), "UTF-8"),
    "scope": ((*CREATE, "--scope", "events:delete"), "--scope"),
    "one scope of two": ((*CREATE, "--scope", "events:read", "--scope", "events"), "--scope"),
    "domain empty": ((*CREATE, "--allow-domain", ""), "--allow-domain"),
    "domain of a URL": ((*CREATE, "--allow-domain", "https://example.com"), "--allow-domain"),
    "domain with a port": ((*CREATE, "--allow-domain", "example.com:80"), "--allow-domain"),
    "domain of stars": ((*CREATE, "--allow-domain", "*"), "--allow-domain"),
    "domain starred within": ((*CREATE, "--allow-domain", "a.*.com"), "--allow-domain"),
    "domain with a line": ((*CREATE, "--allow-domain", "example.com\n"), "--allow-domain"),
    "one domain of two": ((*CREATE, "--allow-domain", "example.com", "--allow-domain", "-a"), "--allow-domain"),
    "unknown command to explain": (("help", "kyes"), "kyes"),
    "rate limit negative": ((*CREATE, "--rate-limit", "-1"), "--rate-limit"),
    "rate limit fraction": ((*CREATE, "--rate-limit", "1.5"), "--rate-limit"),
    "rate limit endless": ((*CREATE, "--rate-limit", "9" * 30), "--rate-limit"),
    "overlap without a unit": (("keys", "rotate", "a", "--overlap", "24"), "s, m, h or d"),
    "overlap without a number": (("keys", "rotate", "a", "--overlap", "h"), "--overlap"),
    "overlap of nothing": (("keys", "rotate", "a", "--overlap", "0s"), "--overlap"),
    "overlap negative": (("keys", "rotate", "a", "--overlap", "-1h"), "--overlap"),
    "overlap fraction": (("keys", "rotate", "a", "--overlap", "1.5h"), "--overlap"),
    "overlap in another unit": (("keys", "rotate", "a", "--overlap", "1w"), "--overlap"),
    "overlap in other digits": (("keys", "rotate", "a", "--overlap", "\u0661h"), "--overlap"),
    "overlap over 7 days": (("keys", "rotate", "a", "--overlap", "169h"), "7d at most"),
    "overlap endless": (("keys", "rotate", "a", "--overlap", "9" * 30 + "d"), "--overlap"),
    "rotate nothing": (("keys", "rotate"), "KEY_ID"),
    "revoke two": (("keys", "revoke", "a", "b"), "b"),
    "driver": ((*CREATE, "--driver", "mongoose"), "--driver"),
    "database empty": (("keys", "list", "--database", ""), "--database"),
    "database with a dot": (("keys", "list", "--database", "a.b"), "--database"),
    "database long": (("keys", "list", "--database", "a" * 64), "--database"),
    "database of MongoDB": (("keys", "list", "--database", "local"), "--database"),
    "url of nothing": (("keys", "list", "--mongodb-url", ""), "--mongodb-url"),
    "url garbage": (("keys", "list", "--mongodb-url", "garbage"), "--mongodb-url"),
    "url of another kind": (("keys", "list", "--mongodb-url", "https://example.com"), "--mongodb-url"),
    "url with a bad port": (("keys", "list", "--mongodb-url", "mongodb://127.0.0.1:port"), "--mongodb-url"),
    "url with a bad option": (("keys", "list", "--mongodb-url", "mongodb://127.0.0.1/?w"), "--mongodb-url"),
    "url garbage, other driver": (("keys", "list", "--driver", "pymongo", "--mongodb-url", "x"), "--mongodb-url"),
    "url of a file": (("keys", "list", "--mongodb-url", "mongodb://x/?tls=true&tlsCAFile=/none"), "--mongodb-url"),
    "data directory of a file": (("keys", "list", "--data-dir", __file__), "--data-dir"),
    "certificate without a key": (("serve", "--tls-cert", __file__), "--tls-key"),
    "key without a certificate": (("serve", "--tls-key", __file__), "--tls-cert"),
    "no certificate": (("serve", "--tls-cert", "/none", "--tls-key", "/none"), "--tls-cert"),
    "port": (("serve", "--port", "65536"), "--port"),
    "workers": (("serve", "--workers", "0"), "--workers"),
    "workers in words": (("serve", "--workers", "many"), "--workers"),
    "log level": (("serve", "--log-level", "loud"), "--log-level"),
    "log format": (("serve", "--log-format", "xml"), "--log-format"),
}


@pytest.mark.parametrize(("arguments", "named"), BAD_USAGE.values(), ids=BAD_USAGE)
def test_bad_usage_is_one_line(tmp_path: Path, arguments: tuple[str, ...], named: str) -> None:
    data_dir = tmp_path / "data"
    done = sluice(*arguments, env={"SLUICE_DATA_DIR": str(data_dir)})
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("sluice: ")
    assert named in line
    assert not data_dir.exists()


def test_a_variable_that_is_not_utf_8_is_one_line(tmp_path: Path) -> None:
    for name, value in (("SLUICE_DATA_DIR", str(tmp_path / "x\udcff")), ("SLUICE_HOST", "\udcff")):
        done = sluice("serve", env={"SLUICE_DATA_DIR": str(tmp_path / "data"), name: value})
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert f"not UTF-8: {name}: " in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
def test_what_kubernetes_sets_for_a_service_is_no_port(scheme: str) -> None:
    links = {"SLUICE_PORT": f"{scheme}://10.96.1.2:8000", "SLUICE_GRPC_PORT": f"{scheme}://10.96.1.3:50051"}
    done = sluice("serve", "--mongodb-url", "mongodb://127.0.0.1:port", env=links)
    assert "--mongodb-url is not a MongoDB URL" in done.stderr  # so the ports were accepted
    done = sluice("serve", "--mongodb-url", "mongodb://127.0.0.1:port", env={"SLUICE_PORT": "10.96.1.2:8000"})
    assert "SLUICE_PORT" in done.stderr


def test_password_of_a_bad_url_is_not_shown() -> None:
    done = sluice("keys", "list", "--mongodb-url", "mongodb://user:pass:phrase@127.0.0.1:x/")
    assert done.returncode == 2
    assert "phrase" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_database_that_is_away_is_one_line() -> None:
    with socket.socket() as taken:  # it does not listen
        taken.bind(("127.0.0.1", 0))
        url = f"mongodb://user:password@127.0.0.1:{taken.getsockname()[1]}/"
        done = sluice("keys", "list", "--mongodb-url", url)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "--mongodb-url" in line
    assert "password" not in line


@pytest.mark.parametrize("arguments", [("--help",), ("keys", "--help"), ("keys", "create", "--help"), ("--version",)])
def test_script_and_module_say_the_same(arguments: tuple[str, ...]) -> None:
    script, module = (
        subprocess.run([*program, *arguments], capture_output=True, text=True, check=True)
        for program in (SCRIPT, MODULE)
    )
    assert script.stdout == module.stdout
    assert "sluice" in script.stdout
    assert script.stderr == module.stderr == ""


def test_script_and_environment_do_as_module_and_options(server: Server) -> None:
    """In a database that no server uses: one notes now and then when keys were used, and the list shows that."""
    words = ("keys", "list", "--database", "unused")
    assert sluice(*CREATE, "--database", "unused", *server.database_options).returncode == 0
    env = {**os.environ, "SLUICE_DATA_DIR": str(server.data_dir), "SLUICE_DRIVER": "pymongo"}
    script = subprocess.run([*SCRIPT, *words], capture_output=True, text=True, env=env, check=True)
    module = sluice(*words, *server.database_options)
    assert (script.stdout, script.stderr) == (module.stdout, module.stderr)


def test_every_database_option_has_a_variable_and_wins_over_it(server: Server) -> None:
    good = {"SLUICE_DATA_DIR": str(server.data_dir), "SLUICE_DATABASE": "elsewhere"}
    done = sluice(*CREATE, "--json", env=good)
    assert done.returncode == 0
    assert done.stderr.startswith(statement(server, "elsewhere"))
    key = json.loads(done.stdout)
    assert status(server, key["key"]) == 401  # the server serves another database
    assert [item["id"] for item in listed(server, "--database", "elsewhere")] == [key["id"]]
    assert key["id"] not in {item["id"] for item in listed(server)}
    bad = {"SLUICE_DATA_DIR": __file__, "SLUICE_DATABASE": "else.where", "SLUICE_DRIVER": "none"}
    for variable, value in {**bad, "SLUICE_MONGODB_URL": "none"}.items():
        done = sluice("keys", "list", env={**good, variable: value})
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), variable
    options = ("--database", "elsewhere", "--driver", "motor", *server.database_options)
    done = sluice("keys", "list", "--json", *options, env=bad)
    assert [item["id"] for item in json.loads(done.stdout)] == [key["id"]]
