"""Calls the receivers of webhooks.

The guard is asked for each socket, before it is opened. No connection can get around it: neither one to an address in
the URL, which no resolver sees, nor one to a name whose addresses have changed since the webhook was made.

Only the worker that delivers imports this file: aiohttp takes 10 MiB.
"""

import asyncio
import socket
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from server.core.webhooks.addresses import Guard
from server.core.webhooks.calls import Response
from server.core.webhooks.model import MAX_RESPONSE_BYTES
from server.runtime.names import Names

TIMEOUT_S = 15.0
"""How long a call may take, from the search of the address to the response, as Standard Webhooks has it."""

MAX_INFORMATIONAL = 10
"""Informational responses (1xx) before the response itself. There is no need of any: nothing asks for them."""

RECEIVE_BUFFER_BYTES = 16 * 1024
"""What the system takes in of a response before it is read: of small responses, these are hundreds."""

HEADERS = {
    "accept-encoding": "identity",  # what is kept of a response is text
    "content-type": "application/json",
    "user-agent": f"sluice/{version('sluice')}",
}

NOT_ALLOWED = "its address is not public. The operator can allow it by --webhook-allow"

FAILURES: tuple[tuple[type[Exception], str], ...] = (
    (TimeoutError, f"it did not answer within {TIMEOUT_S:.0f} s"),
    (aiohttp.ClientConnectorCertificateError, "its certificate is not trusted"),
    (aiohttp.ClientConnectorSSLError, "it does not speak TLS"),
    (aiohttp.ClientConnectorDNSError, "its name is not known"),
    (aiohttp.ClientConnectorError, "no connection"),
    (aiohttp.ClientResponseError, "what it sent is not HTTP/1.1"),
    (Exception, "the connection was lost"),
)
"""What a tenant is told of each error of aiohttp and of the event loop. The first row that fits counts."""


class NotAllowed(OSError):
    """The guard does not allow an address."""

    def __init__(self) -> None:
        super().__init__(NOT_ALLOWED)


class WebhookCalls:
    """Implements `Calls`. It makes a connection for each call: calls of one receiver are rare."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._resolver = Resolver()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Response:
        """See `Calls`."""
        ends = asyncio.get_running_loop().time() + TIMEOUT_S
        connector = aiohttp.TCPConnector(
            resolver=self._resolver, socket_factory=self._open_socket, force_close=True, use_dns_cache=False
        )
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=None)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            response_class=OnlyResponse,
        ) as session:
            try:
                async with asyncio.timeout_at(ends):
                    response = await session.post(url, data=body, headers={**HEADERS, **headers}, allow_redirects=False)
            except Exception as error:  # noqa: BLE001 (one strange receiver must not stop the deliveries to others)
                return Response(None, error=f"The receiver cannot be called: {reason_of(error)}")
            read = await read_start(response, ends)
            return Response(response.status, read, response.headers.get("Retry-After"))

    def _open_socket(self, address: Any) -> socket.socket:
        """A socket for one of the addresses of a host. Raises NotAllowed."""
        family, kind, protocol, _, endpoint = address
        if not self._guard.allows(endpoint[0]):
            raise NotAllowed
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        return opened


class OnlyResponse(aiohttp.ClientResponse):
    """A response after MAX_INFORMATIONAL others at most. aiohttp would read them without end and pause."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Read the head of the response. Raises ClientError."""
        protocol, read = connection.protocol, connection.protocol.read
        left = iter(range(1 + MAX_INFORMATIONAL))

        async def read_one() -> Any:
            if next(left, None) is None:
                raise aiohttp.ClientResponseError(self.request_info, ())
            return await read()

        protocol.read = read_one
        return await super().start(connection)


class Resolver(AbstractResolver):
    """Finds addresses for aiohttp. Its own resolver uses the threads of the event loop (`names.py` says why not)."""

    def __init__(self) -> None:
        self._names = Names()

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002
    ) -> list[ResolveResult]:
        """The addresses of a host, of all families. Raises OSError and UnicodeError."""
        found = await self._names.search(host, port, socket.AI_ADDRCONFIG)
        return [
            ResolveResult(
                hostname=host,
                host=endpoint[0],
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, endpoint in found
        ]

    async def close(self) -> None:
        """Close nothing: searches end by themselves."""


async def read_start(response: aiohttp.ClientResponse, ends: float) -> bytes:
    """The first MAX_RESPONSE_BYTES of a response, or what of them arrives in time. The connection is closed then."""
    read = b""
    try:
        async with asyncio.timeout_at(ends):
            while len(read) < MAX_RESPONSE_BYTES:
                chunk = await response.content.read(MAX_RESPONSE_BYTES - len(read))
                if not chunk:
                    break
                read += chunk
    except (aiohttp.ClientError, OSError):  # the status says what became of the call
        pass
    finally:
        response.close()
    return read


def reason_of(error: Exception) -> str:
    """What a tenant is told of an error."""
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, NotAllowed):
        return NOT_ALLOWED
    return next(reason for kind, reason in FAILURES if isinstance(error, kind))
