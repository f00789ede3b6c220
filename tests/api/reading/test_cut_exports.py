"""An export that is cut never passes for a whole one: not with httpx, curl, gzip, zstd or `sluice export`."""

import random
import subprocess
from functools import partial
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from server.cli import retries
from server.cli.exporting import engine
from tests.support.exports import ENCODINGS, LINES
from tests.support.harness import Json, MongoClient, Server, event
from tests.support.many_events import insert_events
from tests.support.reading import EVENTS
from tests.support.remote_commands import remote_here
from tests.support.unreliable_proxy import Cut, UnreliableProxy
from tests.support.wire import connect

CUTS = 20
HEAD_BYTES = 800
"""More than the head of a response has. If a response ends within its head, aiohttp asks again by itself."""

LAST_CHUNK = b"0\r\n\r\n"


@pytest.fixture(scope="module")
def exporter(server: Server, mongo: MongoClient) -> Json:
    """A key of a tenant with some thousand events, some of which compress badly."""
    key = server.create_key("cut-exports", "--rate-limit", "0")
    insert_events(mongo, key, 2_000)
    rng = random.Random(1)
    with server.client(key["key"]) as client:
        for _ in range(4):
            events = [event(data={"text": rng.randbytes(300).hex()}) for _ in range(250)]
            assert client.post(EVENTS, json={"source": "random", "events": events}).status_code == 201
    return key


def whole_response(server: Server, key: Json, encoding: str) -> bytes:
    """All bytes of the response, with its head and its framing."""
    head = {"Host": "x", "X-API-Key": key["key"], **LINES, "Accept-Encoding": encoding, "Connection": "close"}
    fields = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    with connect(server) as connection:
        connection.sendall(f"GET {EVENTS} HTTP/1.1\r\n{fields}\r\n".encode())
        return b"".join(iter(lambda: connection.recv(1_000_000), b""))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_cut_export_is_no_whole_one(server: Server, exporter: Json, encoding: str, tmp_path: Path) -> None:
    whole = whole_response(server, exporter, encoding)
    assert whole.endswith(LAST_CHUNK)
    begins, ends = whole.index(b"\r\n\r\n") + 4, len(whole) - len(LAST_CHUNK) - 2
    rng = random.Random(encoding)
    for number in range(CUTS):
        cut_after = rng.randrange(begins + 1, ends)
        with UnreliableProxy(server.url, [Cut(cut_after)] * 2) as proxy:
            expect_httpx_to_notice(proxy.url, exporter, encoding)
            got = tmp_path / f"{number}.{encoding}"
            assert curl(proxy.url, exporter, encoding, got) == 18, "curl must say that the transfer is partial"
        assert got.stat().st_size < len(whole)
        if encoding != "identity":
            program = {"gzip": "gzip", "zstd": "zstd"}[encoding]
            tested = subprocess.run([program, "-t"], input=got.read_bytes(), capture_output=True, check=False)
            assert tested.returncode != 0
    for beyond in (len(whole) - len(LAST_CHUNK), len(whole) - 1):  # the compressed stream is whole, the response is not
        with UnreliableProxy(server.url, [Cut(beyond)]) as proxy:
            assert curl(proxy.url, exporter, encoding, tmp_path / "beyond") == 18
    assert curl(server.url, exporter, encoding, tmp_path / "whole") == 0


@pytest.fixture
def expected(server: Server, exporter: Json) -> bytes:
    """What `sluice export` writes."""
    with server.client(exporter["key"]) as client:
        return client.get(EVENTS, params={"order": "asc"}, headers=LINES).content


def random_cuts(server: Server, key: Json, encoding: str) -> list[int]:
    """How many bytes to let through of each response, so that the export is cut at random points all over it.

    Each response begins with the line in which the last one was cut, so what is left is always longer than its cut.
    """
    points = random.Random(encoding).sample(range(1, len(whole_response(server, key, encoding)) * 9 // 10), CUTS)
    return [HEAD_BYTES + after - before for before, after in pairwise([0, *sorted(points)])]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_command_stops_at_each_cut_and_then_goes_on(
    server: Server,
    exporter: Json,
    expected: bytes,
    encoding: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(engine, "GIVE_UP_AFTER_S", 0)
    target = tmp_path / "events.ndjson"
    had = b""
    for cut_after in random_cuts(server, exporter, encoding):
        cuts: list[int] = []
        faults = [Cut(cut_after, partial(cuts.append, cut_after))]
        with UnreliableProxy(server.url, [None, *faults] if had else faults, encoding) as proxy:
            assert remote_here(proxy.url, exporter["key"], "export", "--output", str(target)) == 1
        assert cuts == [cut_after]
        (part,) = tmp_path.iterdir()
        assert part.suffix == ".part"
        assert part.read_bytes().startswith(had)
        had = part.read_bytes()
        assert expected.startswith(had)
        assert had.endswith(b"\n") or not had
        (line,) = capfd.readouterr().err.splitlines()
        assert f"is not whole. It has {len(had.splitlines()):,} events" in line or not had
    assert remote_here(server.url, exporter["key"], "export", "--output", str(target)) == 0
    assert target.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_command_goes_on_by_itself_after_each_cut(
    server: Server,
    exporter: Json,
    expected: bytes,
    encoding: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0)
    target, seen = tmp_path / "events.ndjson", list[list[str]]()

    def look() -> None:
        seen.append([path.suffix for path in tmp_path.iterdir()])

    faults = [Cut(cut_after, look) for cut_after in random_cuts(server, exporter, encoding)]
    with UnreliableProxy(server.url, faults, encoding) as proxy:
        assert remote_here(proxy.url, exporter["key"], "export", "--output", str(target)) == 0
    assert seen == [[".part"]] * CUTS
    assert target.read_bytes() == expected
    *told, last = capfd.readouterr().err.splitlines()
    assert len(told) == CUTS
    assert last == f"exported 3,000 events to {target}"


def expect_httpx_to_notice(url: str, key: Json, encoding: str) -> None:
    """Fails if httpx takes the response for whole."""
    headers = {"X-API-Key": key["key"], **LINES, "Accept-Encoding": encoding}
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(url + EVENTS, headers=headers, timeout=30)


def curl(url: str, key: Json, encoding: str, output: Path) -> int:
    """The exit status of curl, which writes the body as it was sent."""
    headers = {"X-API-Key": key["key"], **LINES, "Accept-Encoding": encoding}
    arguments = [part for name, value in headers.items() for part in ("--header", f"{name}: {value}")]
    command = ["curl", "--silent", "--output", str(output), *arguments, url + EVENTS]
    return subprocess.run(command, check=False).returncode
