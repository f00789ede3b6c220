"""Accepts connections over TLS, which count from the moment they are accepted.

uvicorn would count them after the handshake only. Then clients that send nothing could take all file descriptors.
"""

import asyncio
import ssl
from typing import Any

from server.rest.http.capacity import is_full, is_overfull
from server.rest.http.protocol import HEAD_TIMEOUT_S, LINGER_S, HttpProtocol


class TlsHandshake(asyncio.Protocol):
    """A connection until its handshake is complete. Then `http` takes over."""

    def __init__(self, http: HttpProtocol, context: ssl.SSLContext) -> None:
        self._http = http
        self._context = context
        self._early = b""
        self._transport: asyncio.Transport | None = None
        self._running: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and begin the handshake."""
        self._transport = transport
        if is_overfull(self._http.connections):
            transport.abort()
            return
        self._http.connections.add(self)  # type: ignore[arg-type]  # uvicorn only calls `shutdown`
        transport.pause_reading()  # until the task runs
        self._running = asyncio.create_task(self._shake_hands(transport))

    def data_received(self, data: bytes) -> None:
        """Keep what arrives right behind the handshake."""
        self._early += data

    def shutdown(self) -> None:
        """Close the connection, because the server drains."""
        if self._transport is not None:
            self._transport.abort()

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        """Let `http` take over after the handshake. If that fails, or takes too long, close the connection."""
        full = is_full(self._http.connections)
        try:
            encrypted = await asyncio.get_running_loop().start_tls(
                transport,
                self,
                self._context,
                server_side=True,
                ssl_handshake_timeout=LINGER_S if full else HEAD_TIMEOUT_S,
                ssl_shutdown_timeout=LINGER_S,
            )
        except OSError:  # TLS errors among them
            transport.abort()
            return
        finally:
            self._http.connections.discard(self)
        if encrypted is None or encrypted.is_closing() or transport.is_closing():
            transport.abort()
            return
        encrypted.set_protocol(self._http)
        self._http.connection_made(encrypted)
        if self._early:
            self._http.data_received(self._early)


def protocol_over_tls(certificate: str, key: str | None) -> Any:
    """What uvicorn calls for each connection that it accepts, as it would a protocol class. The files are in PEM."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key, lambda: "")  # a passphrase is never asked for
    context.set_alpn_protocols(["http/1.1"])

    def protocol(**options: Any) -> TlsHandshake:
        return TlsHandshake(HttpProtocol(**options), context)

    return protocol
