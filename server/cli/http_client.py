"""The HTTP client of the commands: sends requests to a server, and says in one line what went wrong.

This is the only file that imports aiohttp, which takes 0.1 s. A command imports it when it runs, so others start
quickly.
"""

import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from server.cli.remote import Remote, RemoteError, Retryable, Unreachable
from server.cli.tls import NO_TLS, NOT_TRUSTED, speaks_tls
from server.runtime.logs import system_reason

HTTP_PORT = 80
"""Of a URL that names none."""

CONNECT_TIMEOUT_S = 10
"""How long a connection may take: it takes as long as three lost packets at most."""

RESPONSE_TIMEOUT_S = 60
"""How long nothing may arrive of a response. The server decides within 10 s, and proxies wait for 60 s."""

KEEPALIVE_S = 15
"""After this time without a byte the other host is asked whether it is there, and some times more if it is silent."""

KEEPALIVE_PROBES = 3

MAX_PROBLEM_BYTES = 256 * 1024
"""What is read of an error. One for a batch names up to 100 events."""

MAX_REASON_CHARS = 500
"""What is printed of an error: some lines of a terminal."""

RETRYABLE = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,  # of a proxy, as 504
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)

MAX_RETRY_AFTER_DIGITS = 3
"""A proxy may ask for more than some minutes. The usual waits are better then."""

FAILURES: tuple[tuple[type[Exception], type[RemoteError], str], ...] = (
    (
        aiohttp.ClientConnectorCertificateError,
        RemoteError,
        NOT_TRUSTED,
    ),
    (aiohttp.ClientConnectorSSLError, RemoteError, NO_TLS),
    (aiohttp.ClientConnectorDNSError, Unreachable, "{url} cannot be reached: its name is not known"),
    (aiohttp.ClientConnectorError, Unreachable, "{url} cannot be reached{cause}"),
    (aiohttp.ConnectionTimeoutError, Unreachable, "{url} cannot be reached: it does not answer"),
    (TimeoutError, Retryable, "{url} does not answer"),
    (aiohttp.ClientResponseError, RemoteError, "{url} is no REST port of Sluice: what it sent is not HTTP/1.1"),
    (aiohttp.InvalidURL, RemoteError, "{url} cannot be a server's URL: give another --url"),
    (aiohttp.ClientError, Retryable, "the connection to {url} was lost"),
)
"""What each error of aiohttp is to the user. The first row that fits counts."""


class Client:
    """Sends requests to one server."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._was_answered = False
        self.url = url

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        accept: str | None,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float | None = RESPONSE_TIMEOUT_S,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response that succeeded and has the media type `accept`; with None, one that needs no body.

        The body is decompressed as it is read.

        `timeout_s` limits each wait for a byte. Raises RemoteError, also while the body is read inside.
        """
        async with (
            self._tls_as_cause(),
            self._session.request(
                method,
                self.url + path,
                params=params,
                headers={**(headers or {}), "Accept": accept or "*/*"},
                data=body,
                allow_redirects=False,  # another server would get the key
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=timeout_s),
            ) as response,
        ):
            self._was_answered = True
            if response.status >= HTTPStatus.MULTIPLE_CHOICES:
                raise await error_of(response, self.url)
            if accept is not None and response.content_type != accept:
                raise RemoteError(f"{self.url} is no Sluice server: it sent {printable(response.content_type)}")
            yield response

    @asynccontextmanager
    async def _tls_as_cause(self) -> AsyncIterator[None]:
        """Raises RemoteError for the errors inside, also if the server speaks TLS and the URL does not say so."""
        try:
            with errors_in_one_line(self.url):
                yield
        except Retryable:
            parts = urlsplit(self.url)
            is_doubtful = not self._was_answered and parts.scheme == "http"
            if is_doubtful and await speaks_tls(parts.hostname or "", parts.port or HTTP_PORT):
                raise RemoteError(f"{self.url} speaks TLS: give --url https{self.url.removeprefix('http')}") from None
            raise


@asynccontextmanager
async def client_of(remote: Remote) -> AsyncIterator[Client]:
    """A client for a server, with connections that are kept."""
    headers = {"X-API-Key": remote.key, "User-Agent": f"sluice/{version('sluice')}"}
    connector = aiohttp.TCPConnector(limit=0, socket_factory=new_socket)
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        yield Client(session, remote.url)


def new_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket that notices when the other host is gone."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    return made


@contextmanager
def errors_in_one_line(url: str) -> Iterator[None]:
    """Raises RemoteError for the errors of aiohttp inside. Their own text is never printed."""
    try:
        yield
    except (aiohttp.ClientError, TimeoutError) as error:
        kind, reason = next(row[1:] for row in FAILURES if isinstance(error, row[0]))
        cause = system_reason(error.os_error) if isinstance(error, aiohttp.ClientConnectorError) else ""
        raise kind(reason.format(url=url, cause=cause)) from None


async def error_of(response: aiohttp.ClientResponse, url: str) -> RemoteError:
    """The error that a response tells."""
    problem = await problem_of(response)
    detail = problem.get("detail") or f"{response.reason}, and nothing says that this is a Sluice server"
    reason = f"{printable(str(detail))} ({response.status} from {url})"
    if response.status not in RETRYABLE:
        return RemoteError(reason, problem)
    asked = response.headers.get("Retry-After", "")
    return Retryable(reason, problem, int(asked) if asked.isdecimal() and len(asked) <= MAX_RETRY_AFTER_DIGITS else 0)


async def problem_of(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The fields of an error; empty if they cannot be read."""
    if response.content_type != "application/problem+json":
        return {}
    try:
        return msgspec.json.decode(await read_whole(response, MAX_PROBLEM_BYTES), type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


async def read_whole(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """The body of a response, of which at most `most_bytes` are kept. One read returns what has arrived."""
    body = bytearray()
    while len(body) < most_bytes and (data := await response.content.read(most_bytes - len(body))):
        body += data
    return bytes(body)


def printable(text: str) -> str:
    """What a server sent, as a terminal may show it."""
    return "".join(char if char.isprintable() else " " for char in text[:MAX_REASON_CHARS])
