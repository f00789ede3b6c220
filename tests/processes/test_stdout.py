"""What happens to what cannot be printed: a secret that is lost is told, with the way out."""

import json as json_module
import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.support.harness import Server, sluice
from tests.support.keys import listed

Opener = Callable[[], int]


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def broken() -> int:
    """A pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def run(server: Server, stdout: int, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command with this file as its stdout."""
    command = [sys.executable, "-m", "server", *words, *server.database_options]
    try:
        return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    finally:
        os.close(stdout)


@pytest.mark.parametrize("opener", [full, broken])
@pytest.mark.parametrize("json", [(), ("--json",)], ids=["text", "json"])
def test_a_secret_that_cannot_be_printed_is_told(server: Server, opener: Opener, json: tuple[str, ...]) -> None:
    done = run(server, opener(), "keys", "create", "--tenant", "unprinted", *json)
    assert done.returncode == 1
    _, line = done.stderr.splitlines()
    key_id = listed(server, "--tenant", "unprinted")[-1]["id"]
    assert f"key {key_id} of tenant unprinted was made, but its secret could not be printed" in line
    assert f"sluice keys rotate {key_id}" in line
    rotated = run(server, opener(), "keys", "rotate", key_id, *json)
    assert rotated.returncode == 1
    assert key_id in rotated.stderr.splitlines()[1]
    rotated = run(server, opener(), "keys", "rotate", key_id, "--overlap", "7d", *json)
    assert rotated.returncode == 1
    assert "keys rotate" not in rotated.stderr  # it would stop the secret that clients have
    (found,) = [key for key in listed(server, "--tenant", "unprinted") if key["id"] == key_id]
    assert found["previous_secret_valid_until"] in rotated.stderr.splitlines()[1]
    assert sluice("keys", "revoke", key_id, *server.database_options).returncode == 0


@pytest.mark.parametrize("opener", [full, broken])
def test_a_list_that_cannot_be_printed_is_one_line(server: Server, opener: Opener) -> None:
    done = run(server, opener(), "keys", "list")
    assert done.returncode == 1
    _, line = done.stderr.splitlines()
    assert re.fullmatch(r"sluice: stdout cannot be written to \([^)]+\)", line)


def test_a_closed_stdout_loses_no_secret_in_silence(server: Server) -> None:
    words = ["-m", "server", "keys", "create", "--tenant", "closed", *server.database_options]
    script = 'exec "$0" "$@" >&-'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, *words], stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "its secret could not be printed" in done.stderr


@pytest.mark.parametrize(
    "words",
    [("--help",), ("--version",), ("help", "keys"), ("keys", "-h"), ("keys", "list", "--help"), ("serve", "--help")],
    ids=" ".join,
)
@pytest.mark.parametrize("target", [">/dev/full", ">&-"])
def test_help_that_cannot_be_printed_is_one_line(words: tuple[str, ...], target: str) -> None:
    script = ["sh", "-c", f'exec "$0" "$@" {target}', sys.executable, "-m", "server", *words]
    done = subprocess.run(script, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"sluice: stdout cannot be written to \([^)]+\)\n", done.stderr)


def test_a_full_stderr_keeps_no_command_from_its_work(server: Server) -> None:
    words = ["-m", "server", "keys", "create", "--tenant", "untold", *server.database_options]
    script = ["sh", "-c", 'exec "$0" "$@" 2>/dev/full', sys.executable, *words]
    done = subprocess.run(script, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.startswith("slc_")) == (0, True)


ASCII = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.parametrize("env", ASCII, ids=lambda env: next(iter(env)) + "=" + next(iter(env.values())))
def test_a_name_that_stdout_cannot_hold_is_escaped(server: Server, env: dict[str, str]) -> None:
    tenant = "żłty"
    if "LC_ALL" not in env:  # there, an argument cannot hold it either
        created = sluice("keys", "create", "--tenant", tenant, "--json", *server.database_options, env=env)
        assert created.returncode == 0, created.stderr
        assert json_module.loads(created.stdout)["tenant"] == tenant
    for name in (tenant, "größe"):  # Latin-1 can hold the second one
        assert sluice("keys", "create", "--tenant", name, *server.database_options).returncode == 0
    as_json = sluice("keys", "list", "--json", *server.database_options, env=env)
    assert tenant in {key["tenant"] for key in json_module.loads(as_json.stdout)}
    table = sluice("keys", "list", *server.database_options, env=env)
    assert (table.returncode, len(table.stdout.splitlines())) == (0, 1 + len(json_module.loads(as_json.stdout)))
    assert "\\u0142" in table.stdout
    assert ("größe" if env.get("PYTHONIOENCODING") == "latin-1" else "gr\\xf6\\xdfe") in table.stdout
