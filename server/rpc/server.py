"""The gRPC server of a worker: the event service, health and reflection on one port.

Health follows the database and the drain, so that load balancers learn about both before clients do.
"""

import asyncio
import logging
from pathlib import Path
from typing import cast

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection

from server.rpc.ingest import SERVICE, EventService
from server.services import Services
from server.settings import Settings, address

OVERALL = ""
"""The name for which health is asked about the server as a whole."""

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""The largest message that is received: more than a batch may have, so that a batch over it gets our own error."""

MIN_PING_INTERVAL_MS = 9_000
"""Clients may send keepalive pings every 10 s. The rest is a margin, since some timers are early."""

LINGER_S = 0.5
"""How long a drain leaves connections open, so that clients read how their streams ended. A client that still sends
would break a closed connection, and lose its last responses. Streams end when their batches are on disk: in 0.1 s."""

MAX_PENDING_CALLS = 100_000
"""Calls that have arrived and not been accepted. Past it, the library cancels calls without a reason. So it is larger
than any burst, and calls past the limits of `core/in_flight.py` get our own error."""

MAX_STREAMS = 1_000
"""Calls that one connection may have open: half of MAX_REQUESTS_IN_FLIGHT. The client's library queues the others."""

MAX_METADATA_BYTES = 64 * 1024
"""The same as for headers over REST. Past it the library answers RESOURCE_EXHAUSTED before our code runs."""

HANDSHAKE_TIMEOUT_MS = 10_000
"""The time for a connection to show that it speaks HTTP/2. The library's default is two minutes."""

MAX_CONNECTION_AGE_MS = 600_000
"""A connection this old accepts no new calls, and its client opens another. So connections spread over the workers
again, and a replaced worker gets its share. Calls and streams that are open go on."""

CHECK_EVERY_S = 0.05
"""How often to check whether the library stopped accepting. Until then nobody accepts connections."""

RETIRED_TIMEOUT_S = 3_600
"""How long calls of a server that stopped accepting may go on. Clients open longer streams again."""

OPTIONS = [
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.max_connection_age_ms", MAX_CONNECTION_AGE_MS),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
    ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_PENDING_CALLS),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 1),  # the workers share the port; the supervisor checked that no other program uses it
    ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
    ("grpc.keepalive_permit_without_calls", 1),
]


log = logging.getLogger("sluice")


class GrpcServer:
    """Starts, follows the database, drains."""

    def __init__(self, services: Services) -> None:
        self._health = health.aio.HealthServicer()
        self._handlers = EventService(services).handlers()
        self._retired: set[asyncio.Task[None]] = set()

    async def start(self, settings: Settings) -> None:
        """Accept calls."""
        await self.set_serving(False)
        self._server = await self._listen(settings)
        self._listening = asyncio.create_task(self._keep_listening(settings))

    async def _listen(self, settings: Settings) -> grpc.aio.Server:
        """A server that accepts calls."""
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers((self._handlers,))
        generic = cast("grpc.aio.Server", GenericOnly(server))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, generic)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), generic)
        where = address(settings.host, settings.grpc_port)
        if settings.tls_cert is None:
            server.add_insecure_port(where)
        else:
            server.add_secure_port(where, credentials(settings))
        await server.start()
        return server

    async def _keep_listening(self, settings: Settings) -> None:
        """Listen again if the library stops accepting, which it does at a call whose path is not UTF-8.

        Open calls go on meanwhile, on connections that accept no new ones.
        """
        while True:
            try:
                await self._server.wait_for_termination(CHECK_EVERY_S)
            except UnicodeDecodeError:
                log.warning("gRPC had a call whose path is not text: listening again")
                retired = asyncio.create_task(self._server.stop(RETIRED_TIMEOUT_S))
                self._retired.add(retired)
                retired.add_done_callback(self._retired.discard)
                self._server = await self._listen(settings)

    async def set_serving(self, serving: bool) -> None:
        """Say whether calls can be served: whether the database takes writes."""
        status = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        for name in (OVERALL, SERVICE):
            await self._health.set(name, status)

    async def report_draining(self) -> None:
        """Say that calls cannot be served, for good."""
        await self._health.enter_graceful_shutdown()

    async def drain(self, timeout_s: float) -> None:
        """Reject new calls and end. Streams end because `Services.draining` is set, after their last response."""
        await asyncio.sleep(LINGER_S)
        self._listening.cancel()
        await self._server.stop(timeout_s)
        if self._retired:
            await asyncio.wait(self._retired, timeout=timeout_s)


class GenericOnly:
    """A server to which libraries add their methods as generic handlers, like ours, and not by name too.

    The library listens for each name separately. If it stops accepting (`_keep_listening`), it frees the memory of that
    while its core still writes there: one bad call in ten crashed a busy worker.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Do nothing: the same methods were just added as generic handlers."""


def credentials(settings: Settings) -> grpc.ServerCredentials:
    """The server's certificate, and whether clients need one."""
    assert settings.tls_cert is not None  # noqa: S101
    assert settings.tls_key is not None  # noqa: S101
    pair = (Path(settings.tls_key).read_bytes(), Path(settings.tls_cert).read_bytes())
    authority = Path(settings.tls_client_ca).read_bytes() if settings.tls_client_ca else None
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)
