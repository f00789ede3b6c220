"""`sluice tail`: what it prints, where it starts, and how it ends."""

import json
import os
import pty
import signal
import termios
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.support.harness import Json, Server, batch, event, sluice
from tests.support.reading import EVENTS
from tests.support.remote_commands import remote, running

LONG_AGO = "2020-01-01T00:00:00Z"


def store(client: httpx.Client, count: int = 1, **fields: Any) -> list[str]:
    """The ids of new events."""
    response = client.post(EVENTS, json=batch(count, **fields))
    assert response.status_code == 201, response.text
    return [item["id"] for item in response.json()["events"]]


@contextmanager
def tail(server: Server, key: Json, *arguments: str) -> Iterator[tuple[Any, Iterator[Json]]]:
    """The process, and the events that it prints in a pipe."""
    with running(server.url, key["key"], "tail", *arguments) as process:
        assert process.stdout is not None
        yield process, map(json.loads, process.stdout)


def ids_in(events: Iterator[Json], count: int) -> list[str]:
    """The ids of the next events."""
    return [next(events)["id"] for _ in range(count)]


@pytest.mark.parametrize("since", [LONG_AGO, "1h"])
def test_since_then_live(server: Server, client: httpx.Client, key: Json, since: str) -> None:
    stored = store(client, 3)
    with tail(server, key, "--since", since) as (_, events):
        assert next(events) == client.get(f"{EVENTS}/{stored[0]}").json()
        assert ids_in(events, 2) == stored[1:]
        live = store(client, 100)
        assert ids_in(events, 100) == live


def test_filters(server: Server, client: httpx.Client, key: Json) -> None:
    wanted = event(type="view")
    with tail(server, key, "--since", LONG_AGO, "--source", "app", "--event-type", "view") as (_, events):
        for source in ("web", "app"):
            assert client.post(EVENTS, json={"source": source, "events": [event(type="other"), wanted]}).is_success
        found = next(events)
        assert (found["source"], found["event_type"]) == ("app", "view")
        assert client.post(EVENTS, json={"source": "app", "events": [wanted]}).is_success
        assert next(events)["id"] != found["id"]


@pytest.mark.parametrize("last", [1, 40, 1_001])
def test_the_last_ones_while_others_are_stored(server: Server, client: httpx.Client, key: Json, last: int) -> None:
    stored = store(client, 50)
    stopping = threading.Event()

    def write() -> None:
        with server.client(key["key"]) as writing:
            while not stopping.is_set():
                stored.extend(store(writing, 7))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with tail(server, key, "--last", str(last)) as (_, events):
            first = ids_in(events, min(last, 50) + 20)
            stopping.set()
            writer.join()
            final = store(client)[0]
            rest = list(iter(lambda: next(events)["id"], final))
    finally:
        stopping.set()
        writer.join()
    begin = stored.index(first[0])
    assert begin >= 50 - last
    assert [*first, *rest] == stored[begin:]


def test_last_of_few_and_of_none(server: Server, client: httpx.Client, key: Json) -> None:
    with tail(server, key, "--last", "5", "--source", f"none-{uuid.uuid4().hex}") as (process, _):
        ids = store(client, 2)
        with tail(server, key, "--last", "5") as (_, events):
            assert ids_in(events, 2) == ids
        assert process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_quietly(server: Server, client: httpx.Client, key: Json, number: int) -> None:
    store(client)
    with tail(server, key, "--last", "1") as (process, events):
        next(events)
        process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stderr.read() == b""


def test_a_reader_that_has_enough(server: Server, client: httpx.Client, key: Json) -> None:
    store(client)
    with tail(server, key, "--last", "1") as (process, events):
        next(events)
        process.stdout.close()
        store(client)
        assert process.wait(30) == 0
        assert process.stderr.read() == b""


def test_a_revoked_key(server: Server, client: httpx.Client, key: Json) -> None:
    store(client)
    new = server.create_key(key["tenant"])
    with tail(server, new, "--last", "1") as (process, events):
        next(events)
        assert sluice("keys", "revoke", new["id"], *server.database_options).returncode == 0
        assert process.wait(30) == 1
        (line,) = process.stderr.read().decode().splitlines()
        assert line == "sluice: Invalid or missing API key"


@pytest.mark.parametrize(
    ("arguments", "status", "named"),
    [
        (("--since", "yesterday"), 2, "since"),
        (("--since", "9999999d"), 2, "--since"),
        (("--since", "1h", "--last", "1"), 2, "--last"),
        (("--last", "0"), 2, "--last"),
        (("--source", ""), 2, "source"),
        (("--url", "http://127.0.0.1:1"), 1, "Connection refused"),
        (("--key", "unknown"), 1, "API key"),
    ],
)
def test_bad_usage_is_one_line(server: Server, key: Json, arguments: Any, status: int, named: str) -> None:
    done = remote(server.url, key["key"], "tail", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    (line,) = done.stderr.splitlines()
    assert named in line
    assert key["key"] not in line


def test_lines_on_a_terminal(server: Server, client: httpx.Client, key: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # which pytest's processes have, and which comes before the terminal
    odd = [event(type="\x1b[2J", data={"text": "\u202e" + "\u65e5" * 60})]
    assert client.post(EVENTS, json={"source": "web", "events": odd}).is_success
    store(client, source="app")
    reader, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    with running(server.url, key["key"], "tail", "--last", "2", stdout=terminal) as process:
        shown = b""
        while shown.count(b"\n") < 2:
            shown += os.read(reader, 10_000)
        process.terminate()
        assert process.wait(30) == 0
    os.close(terminal)
    os.close(reader)
    first, second = shown.decode().splitlines()
    assert '  web               \\x1b[2J           {"text":"\\u202e\u65e5' in first
    assert first.endswith("...")
    assert '  app               purchase          {"index":0,"value":99.99,"currency":"USD"}' in second
