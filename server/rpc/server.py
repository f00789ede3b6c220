"""The gRPC server of a worker: the event service, health and reflection on one port.

Health follows the database and the drain, so that load balancers learn about both before clients do.
"""

import asyncio
from contextvars import Context
from typing import Never

from server.core.errors import Code, ConfigurationError, NotFound
from server.core.refusals import log_refusal
from server.rpc.accepting import AcceptingServer
from server.rpc.arrivals import MAX_LIBRARY_BYTES, MessageReader
from server.rpc.connections import ConnectionWatch, end_connections, max_connections
from server.rpc.ingest import DRAINING, SERVICE, EventService
from server.rpc.listing import Listing
from server.rpc.pacing import Pace
from server.rpc.tail import TailService
from server.rpc.tls import credentials, why_not_listening
from server.rpc.unkeyed import UnkeyedServices
from server.services import Services
from server.settings import Settings, address

MIN_PING_INTERVAL_MS = 9_000
"""Clients may send keepalive pings every 10 s. The rest is a margin, since some timers are early."""

LINGER_S = 0.5
"""How long a drain rejects new calls after the last accepted one has ended, so that clients learn of it and go to
another worker."""

CLOSE_S = 0.2
"""How long connections stay open for reading after their end of stream: clients read the last responses meanwhile."""

FIRST_HEALTH_S = 2
"""How long the start waits for the database, so that health says SERVING as soon as the server is ready."""

WATCH_INTERVAL_S = 5
"""How often to look whether there are too many connections."""

MAX_PENDING_CALLS = 8_000
"""Calls that have arrived and not been accepted. Past it, the library cancels calls without a reason. So it is larger
than MAX_REQUESTS_IN_FLIGHT, past which calls get our own error. The library holds some 28 KB for each."""

MAX_STREAMS = 100
"""Calls that one connection may have open: the least that RFC 9113 recommends. The client's library queues the others.
With more, one client that makes calls and resets them at once fills MAX_PENDING_CALLS, whatever its key is."""

MAX_METADATA_BYTES = 64 * 1024
"""The same as for headers over REST. Past it the library answers RESOURCE_EXHAUSTED before our code runs."""

HANDSHAKE_TIMEOUT_MS = 10_000
"""The time for a connection to show that it speaks HTTP/2. The library's default is two minutes."""

MAX_CONNECTION_AGE_MS = 600_000
"""A connection this old accepts no new calls, and its client opens another. So connections spread over the workers
again, and a replaced worker gets its share. Calls and streams that are open go on."""

KEEPALIVE_TIME_MS = 60_000
"""How long a connection may bring nothing before the server sends a ping."""

KEEPALIVE_TIMEOUT_MS = 20_000
"""How long the answer to a ping may take. So a stream whose client has vanished ends after 80 s."""

OPTIONS = (
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.max_connection_age_ms", MAX_CONNECTION_AGE_MS),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
    ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_PENDING_CALLS),
    ("grpc.max_receive_message_length", MAX_LIBRARY_BYTES),
    ("grpc.so_reuseport", 1),  # the workers share the port; the supervisor checked that no other program uses it
    ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # the library's default is a minute, for all pings
    ("grpc.http2.bdp_probe", 0),  # on a fast network it lets every call send megabytes that nobody has asked for
    ("grpc.per_message_decompression", 0),  # `arrivals.py` does it, within limits
)


class GrpcServer:
    """Starts, follows the database, drains."""

    def __init__(self, services: Services) -> None:
        self._requests = services.requests
        self._messages = MessageReader()
        pace = Pace()
        self._unkeyed = UnkeyedServices((SERVICE,), self._messages, pace)
        self._events = EventService(services, self._messages, pace)
        self._listing = Listing(services, self._messages, pace)
        self._tail = TailService(services, self._messages, pace)

    async def start(self, settings: Settings) -> None:
        """Accept calls. Raises ConfigurationError if the library does not listen."""
        limit = max_connections()
        options = (*OPTIONS, ("grpc.max_allowed_incoming_connections", limit))
        handlers = {
            **self._events.handlers(),
            **self._listing.handlers(),
            **self._tail.handlers(),
            **self._unkeyed.handlers(),
        }
        self._server = AcceptingServer(handlers, options, self._refuse_unknown_method)
        where = address(settings.host, settings.grpc_port).encode()
        if settings.tls is None:
            self._port = self._server.add_insecure_port(where)
        else:
            self._port = self._server.add_secure_port(where, credentials(settings.tls))
        if not self._port:
            raise ConfigurationError(await why_not_listening(settings))
        await self._unkeyed.wait_until_serving(FIRST_HEALTH_S)
        await self._server.start()
        self._watching = asyncio.create_task(watch_connections(ConnectionWatch(self._port, limit)))

    def _refuse_unknown_method(self) -> None:
        """Note a call to a method that is not ours. The library ends it with UNIMPLEMENTED."""
        context = Context()  # whatever request this runs in, it is another one
        context.run(self._requests.refuse, "grpc", NotFound("There is no such method"))
        context.run(log_refusal, Code.NOT_FOUND)

    def open_streams(self) -> int:
        """How many streams are open."""
        return self._events.open_streams()

    def is_serving(self) -> bool:
        """Whether calls can be served."""
        return self._unkeyed.is_serving()

    async def set_serving(self, serving: bool) -> None:
        """Say whether calls can be served: whether the database takes writes."""
        await self._unkeyed.set_serving(serving)

    async def report_draining(self) -> None:
        """Say that calls cannot be served, for good."""
        await self._unkeyed.report_draining()

    async def drain(self, timeout_s: float) -> None:
        """Finish the calls that are open, reject new ones, and end.

        Streams end because `Services.draining` is set, after their last response. The library would answer calls that
        arrive after its shutdown with a bare CANCELLED, which clients do not send again. So the connections end before
        it, and calls that are still on the wire end with UNAVAILABLE.
        """
        self._messages.drain(DRAINING)
        await self._server.wait_for_calls(timeout_s)
        await asyncio.sleep(LINGER_S)
        end_connections(self._port)
        await asyncio.sleep(CLOSE_S)
        self._watching.cancel()
        await self._server.shutdown(None)


async def watch_connections(watch: ConnectionWatch) -> Never:
    """Look for too many connections, again and again."""
    while True:
        await asyncio.sleep(WATCH_INTERVAL_S)
        watch.check()
