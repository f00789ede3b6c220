"""Accepts connections over TLS, which count from the moment they are accepted.

uvicorn would count them after the handshake only. Then clients that send nothing could take all file descriptors.

It uses a class of uvloop that is not documented, so uvloop's minor version is capped. The documented `start_tls` begins
one turn of the event loop after a connection is accepted, and loses what the client has sent by then.
"""

import asyncio
import ssl
from typing import Any

from uvloop.loop import SSLProtocol  # type: ignore[attr-defined]  # compiled, and without types

from server.core.requests import Requests
from server.pem import path_of
from server.rest.http.capacity import is_full, is_overfull
from server.rest.http.ending import LINGER_S
from server.rest.http.protocol import HEAD_TIMEOUT_S, HttpProtocol
from server.settings import TlsFiles


class TlsHandshake(asyncio.Protocol):
    """A connection until its handshake is complete. Then `http` takes over. One that fails is closed by uvloop."""

    def __init__(self, http: HttpProtocol, context: ssl.SSLContext) -> None:
        self._http = http
        self._context = context
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection and begin the handshake; or, after the handshake, let `http` take over."""
        if self._transport is None:
            self._transport = transport
            self._begin(transport)
        else:
            self._http.connections.discard(self)
            transport.set_protocol(self._http)
            self._http.connection_made(transport)

    def shutdown(self) -> None:
        """Close the connection, because the server drains."""
        if self._transport is not None:
            self._transport.abort()

    def _begin(self, transport: asyncio.Transport) -> None:
        full = is_full(self._http.connections)
        if is_overfull(self._http.connections):
            transport.abort()
            return
        self._http.connections.add(self)  # type: ignore[arg-type]  # uvicorn only calls `shutdown`
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        done.add_done_callback(self._on_done)
        handshake = SSLProtocol(
            loop,
            self,
            self._context,
            done,
            server_side=True,
            call_connection_made=True,
            ssl_handshake_timeout=LINGER_S if full else HEAD_TIMEOUT_S,
            ssl_shutdown_timeout=LINGER_S,
        )
        transport.set_protocol(handshake)
        handshake.connection_made(transport)

    def _on_done(self, done: asyncio.Future[None]) -> None:
        """The handshake has succeeded or failed, or the client is gone."""
        self._http.connections.discard(self)
        if not done.cancelled():
            done.exception()  # of the client's making: nobody else wants to know


def protocol_over_tls(tls: TlsFiles, requests: Requests) -> Any:
    """What uvicorn calls for each connection that it accepts, as it would a protocol class."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with path_of(tls.cert) as cert, path_of(tls.key) as key:
        context.load_cert_chain(cert, key, lambda: "")  # a passphrase is never asked for
    context.set_alpn_protocols(["http/1.1"])

    def protocol(**options: Any) -> TlsHandshake:
        return TlsHandshake(HttpProtocol(requests=requests, **options), context)

    return protocol
