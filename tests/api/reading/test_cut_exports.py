"""An export that is cut on its way never passes for a whole one: not with httpx, curl, gzip, zstd or the command."""

import random
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support.exports import ENCODINGS, LINES
from tests.support.harness import Json, MongoClient, Server, event
from tests.support.many_events import insert_events
from tests.support.reading import EVENTS
from tests.support.relay import CutsOfExports, CuttingRelay
from tests.support.remote_commands import remote
from tests.support.wire import connect

CUTS = 20
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
        with CuttingRelay(server.url.removeprefix("http://"), cut_after) as relay:
            expect_httpx_to_notice(relay.url, exporter, encoding)
            got = tmp_path / f"{number}.{encoding}"
            assert curl(relay.url, exporter, encoding, got) == 18, "curl must say that the transfer is partial"
        assert got.stat().st_size < len(whole)
        if encoding != "identity":
            program = {"gzip": "gzip", "zstd": "zstd"}[encoding]
            tested = subprocess.run([program, "-t"], input=got.read_bytes(), capture_output=True, check=False)
            assert tested.returncode != 0
    for beyond in (len(whole) - len(LAST_CHUNK), len(whole) - 1):  # the compressed stream is whole, the response is not
        with CuttingRelay(server.url.removeprefix("http://"), beyond) as relay:
            assert curl(relay.url, exporter, encoding, tmp_path / "beyond") == 18
    assert curl(server.url, exporter, encoding, tmp_path / "whole") == 0


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_command_goes_on_after_each_cut(server: Server, exporter: Json, encoding: str, tmp_path: Path) -> None:
    with server.client(exporter["key"]) as client:
        expected = client.get(EVENTS, params={"order": "asc"}, headers=LINES).content
    rng, size = random.Random(encoding), len(whole_response(server, exporter, encoding))
    cuts = [rng.randrange(1, size // 4) for _ in range(CUTS // 2)]
    target, seen = tmp_path / "events.ndjson", []
    relay = CutsOfExports(
        server.url.removeprefix("http://"), cuts, encoding, lambda: seen.append(sorted(tmp_path.iterdir()))
    )
    with relay:
        done = remote(relay.url, exporter["key"], "export", "--output", str(target))
    assert done.returncode == 0, done.stderr
    assert target.read_bytes() == expected
    assert done.stderr.splitlines()[-1] == f"exported 3,000 events to {target}"
    assert list(tmp_path.iterdir()) == [target]
    assert len(seen) >= CUTS // 4, "the last cuts may be past the end"
    assert all(path.suffix == ".part" for paths in seen for path in paths)


def expect_httpx_to_notice(url: str, key: Json, encoding: str) -> None:
    """Fails if httpx takes the response for whole."""
    headers = {"X-API-Key": key["key"], **LINES, "Accept-Encoding": encoding}
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(url + EVENTS, headers=headers)


def curl(url: str, key: Json, encoding: str, output: Path) -> int:
    """The exit status of curl, which writes the body as it was sent."""
    headers = {"X-API-Key": key["key"], **LINES, "Accept-Encoding": encoding}
    arguments = [part for name, value in headers.items() for part in ("--header", f"{name}: {value}")]
    command = ["curl", "--silent", "--output", str(output), *arguments, url + EVENTS]
    return subprocess.run(command, check=False).returncode
