"""The HTTP client of the commands: its options, its waits, and errors in one line."""

import asyncio
import re
from contextlib import suppress
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from server.cli.http_client import client_of
from server.cli.remote import Remote, RemoteError, Retryable, Unreachable, remote_options
from server.cli.retries import MAX_WAIT_S, Retries

KEY = "slc_" + "k" * 43


@click.command()
@remote_options
def command(url: str, key: str) -> None:
    click.echo(f"{url} {key}")


@pytest.mark.parametrize("url", ["http://h:1/", "https://h", "http://[::1]:8000/sluice"])
def test_url(url: str) -> None:
    done = CliRunner().invoke(command, ["--url", url, "--key", KEY])
    assert done.output == f"{url.rstrip('/')} {KEY}\n"


@pytest.mark.parametrize("url", ["", "h:1", "ftp://h", "http://", "http://h:99999", "http://u:pass@h", "http://h/?a=b"])
def test_no_url(url: str) -> None:
    done = CliRunner().invoke(command, ["--url", url, "--key", KEY])
    assert done.exit_code == 2
    assert "--url" in done.output
    assert "pass@" not in done.output


def test_a_key_from_each_place(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    for env, arguments in (
        ({"SLUICE_API_KEY": KEY}, []),
        ({"SLUICE_API_KEY_FILE": str(file)}, []),
        ({"SLUICE_API_KEY_FILE": "/nowhere", "SLUICE_API_KEY": "other"}, ["--key", KEY]),
    ):
        assert CliRunner(env=env).invoke(command, arguments).output == f"http://127.0.0.1:8000 {KEY}\n"


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({}, "SLUICE_API_KEY"),
        ({"SLUICE_API_KEY": KEY, "SLUICE_API_KEY_FILE": "/nowhere"}, "both set"),
        ({"SLUICE_API_KEY_FILE": "/nowhere"}, "No such file"),
        ({"SLUICE_API_KEY_FILE": "/dev/null"}, "without an API key"),
        ({"SLUICE_API_KEY": f"{KEY}\r\nX: y"}, "character"),
    ],
)
def test_no_key(env: dict[str, str], named: str) -> None:
    done = CliRunner(env=env).invoke(command, [])
    assert done.exit_code == 2
    assert named in done.output
    assert KEY not in done.output


def waits_of(retries: Retries, error: Retryable, count: int) -> list[float]:
    """The waits before each of `count` attempts."""
    waits: list[float] = []

    async def sleep(wait_s: float) -> None:
        waits.append(wait_s)

    async def wait() -> None:
        for _ in range(count):
            await retries.wait(error, sleep)

    asyncio.run(wait())
    return waits


def test_waits_double_and_are_told_once() -> None:
    said: list[str] = []
    retries = Retries(say=said.append)
    waits = waits_of(retries, Retryable("lost"), 12)
    assert all(0.25 * 2**n <= wait <= 0.25 * 2**n * 1.25 for n, wait in enumerate(waits[:6]))
    assert waits[-1] <= MAX_WAIT_S * 1.25
    assert said == ["lost: trying again"]
    retries.succeeded()
    assert waits_of(retries, Unreachable("gone"), 1)[0] < 1
    assert said[1:] == ["gone: trying again"]


def test_a_wait_is_at_least_what_the_server_asks_for() -> None:
    assert waits_of(Retries(), Retryable("busy", retry_after_s=7), 1)[0] >= 7


def test_a_server_that_was_never_reached_is_not_waited_for() -> None:
    with pytest.raises(Unreachable):
        waits_of(Retries(), Unreachable("refused"), 1)


def test_retries_end() -> None:
    retries = Retries(give_up_after_s=10)
    waits_of(retries, Retryable("lost"), 5)
    with pytest.raises(Retryable, match="lost"):
        waits_of(retries, Retryable("lost"), 2)


@pytest.mark.parametrize(
    ("response", "kind", "named"),
    [
        (b"HTTP/1.1 503 X\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n", Retryable, "503"),
        (b"HTTP/1.1 520 \x1b[1mX\r\nContent-Length: 0\r\n\r\n", RemoteError, "520"),
        (b"HTTP/1.1 302 X\r\nLocation: http://h/\r\nContent-Length: 0\r\n\r\n", RemoteError, "302"),
        (b"HTTP/1.1 200 X\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n", RemoteError, "text/html"),
        (b"HTTP/1.1 200 X\r\nContent-Type: a/b\r\nContent-Length: 9\r\n\r\n", Retryable, "lost"),
        (b"HTTP/1.1 200 X\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", Retryable, "lost"),
        (
            b"HTTP/1.1 401 X\r\nContent-Type: application/problem+json\r\nContent-Length: 22\r\n\r\n"
            b'{"detail":"a\\u001bb"} ',
            RemoteError,
            "^a b .401 from http",
        ),
        (b"\0\0\x12\4\0\0\0\0\0", RemoteError, "no REST port"),
        (b"", Retryable, "lost"),
    ],
)
def test_errors_in_one_line(response: bytes, kind: type[RemoteError], named: str) -> None:
    with pytest.raises(RemoteError) as raised:
        asyncio.run(read_one(response))
    assert type(raised.value) is kind
    assert re.search(named, str(raised.value))
    assert str(raised.value).isprintable()


async def read_one(response: bytes) -> None:
    """Read a response whose bytes are given."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(asyncio.IncompleteReadError):  # of the client's look whether this port has TLS
                assert KEY.encode() in await reader.readuntil(b"\r\n\r\n")
                writer.write(response)
        finally:
            writer.close()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as listener:
        host, port = listener.sockets[0].getsockname()
        remote = Remote(f"http://{host}:{port}", KEY)
        async with client_of(remote) as client, client.request("GET", "/", "a/b") as got:
            await got.read()
