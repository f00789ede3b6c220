"""`sluice export`: to a file and to stdout, whole or not, and run again after it was killed."""

import json
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.support.exports import LINES
from tests.support.harness import Json, MongoClient, Server, event, sluice, wait_until
from tests.support.many_events import insert_events
from tests.support.reading import EVENTS
from tests.support.remote_commands import remote, running
from tests.support.terminal import Terminal
from tests.support.unreliable_proxy import Cut, Stall, UnreliableProxy

COUNT = 3_000


@pytest.fixture
def exported(client: httpx.Client, mongo: MongoClient, key: Json) -> bytes:
    """What the server exports of the key's tenant."""
    insert_events(mongo, key, COUNT - 2)
    odd = [event(data={"text": "\u2028\u0085\r" * 3}), event(data={"text": "x" * 900_000})]
    assert client.post(EVENTS, json={"source": "odd", "events": odd}).status_code == 201
    return client.get(EVENTS, params={"order": "asc"}, headers=LINES).content


def test_to_stdout_and_to_a_file(server: Server, key: Json, exported: bytes, tmp_path: Path) -> None:
    target = tmp_path / "events"
    target.write_text("an older export")
    done = remote(server.url, key["key"], "export", "--output", str(target))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"exported 3,000 events to {target}\n")
    assert target.read_bytes() == exported
    with running(server.url, key["key"], "export") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, exported, b"exported 3,000 events\n")


def test_filters(server: Server, key: Json, exported: bytes) -> None:
    received = json.loads(exported.split(b"\n")[-2])["received_at"]
    found = remote(
        server.url, key["key"], "export", "--source", "odd", "--event-type", event()["type"], "--since", received
    )
    assert len(found.stdout.split("\n")) == 3, found.stderr
    none = remote(server.url, key["key"], "export", "--source-id", "other", "--until", received)
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "exported 0 events\n")


def test_killed_and_run_again(server: Server, key: Json, exported: bytes, tmp_path: Path) -> None:
    target = tmp_path / "events"
    arguments = ("export", "--output", str(target))
    proxy = UnreliableProxy(server.url, [Stall(300_000)], "identity")
    with proxy, running(proxy.url, key["key"], *arguments) as process:
        wait_until(lambda: any(path.stat().st_size > 200_000 for path in tmp_path.iterdir()), "lines in a file")
        process.kill()
    (part,) = tmp_path.iterdir()
    with part.open("ab") as file:
        file.write(b'{"id":"half')
    other = remote(server.url, server.create_key("other-exporter")["key"], *arguments)
    assert other.returncode == 1
    assert "another tenant" in other.stderr
    assert part.exists()
    assert not target.exists()
    filtered = remote(server.url, key["key"], *arguments, "--source", "odd")
    assert filtered.returncode == 0, filtered.stderr
    assert target.read_bytes() == b"".join(line + b"\n" for line in exported.split(b"\n")[-3:-1])
    done = remote(server.url, key["key"], *arguments)
    assert (done.returncode, done.stderr) == (0, f"exported 3,000 events to {target}\n")
    assert target.read_bytes() == exported
    assert list(tmp_path.iterdir()) == [target]


def test_what_was_cut_for_good_is_no_whole_export(server: Server, exported: bytes, key: Json, tmp_path: Path) -> None:
    for arguments, remedy in ((("--output", str(tmp_path / "events")), "The same command"), ((), "With --output")):
        new = server.create_key(key["tenant"])
        revoke = partial(sluice, "keys", "revoke", new["id"], *server.database_options)
        proxy = UnreliableProxy(server.url, [Cut(300_000, revoke)], "identity")
        with proxy, running(proxy.url, new["key"], "export", *arguments) as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == 1
        (told, last) = err.decode().splitlines()
        assert "was lost: trying again" in told
        assert "401" in last
        assert "is not whole. It has " in last
        assert remedy in last
        assert exported.startswith(out)
        assert out.endswith(b"\n") or arguments
    assert not (tmp_path / "events").exists()


def test_a_reader_that_has_enough(server: Server, exported: bytes, key: Json) -> None:
    with running(server.url, key["key"], "export") as process:
        assert process.stdout is not None
        assert exported.startswith(process.stdout.read(10))
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_progress_on_a_terminal_only(server: Server, exported: bytes, key: Json) -> None:
    with Terminal() as terminal:
        with running(server.url, key["key"], "export", stderr=terminal.descriptor) as process:
            out, _ = process.communicate(timeout=60)
        shown = terminal.shown()
    assert out == exported
    assert "3.00k events" in shown
    assert "1.7 MB" in shown
    assert shown.splitlines()[-1] == "exported 3,000 events"
