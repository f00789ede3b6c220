"""Clients of a server with TLS: REST and gRPC, over connections that are kept and over new ones. None retries.

Each request is one event with a mark of its own. What became of it is one word, which `Results` counts.
"""

import asyncio
import itertools
import ssl
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import grpc
import httpx
from grpc_status import rpc_status
from sluice.v1 import event_service_pb2 as pb

from server.runtime.workers import HANDSHAKE_S
from tests.support.grpc_client import OWN_CONNECTION, Stream, good_batch, metadata, stub_of
from tests.support.harness import Server
from tests.support.reading import EVENTS

TIMEOUT_S = 20
PAUSE_S = 0.01
"""Between two requests of a client: the server is under load, and not at its limit."""

LONG_S = 3_600

LATE = "not stored, and late"
"""What became of a request that took longer than a worker that is replaced waits for new connections. The machine, or
this process, stood still: then the connection may have begun before, and not been made."""

STREAM_WINDOW = 4
"""Batches of a stream that are sent and not answered."""


class Results:
    """What became of the requests of all clients."""

    def __init__(self) -> None:
        self._marks = itertools.count()
        self.acknowledged: set[int] = set()
        self.counts = Counter[str]()
        self._lock = threading.Lock()

    def next_mark(self) -> int:
        """The mark of a new event."""
        return next(self._marks)

    def add(self, client: str, mark: int, outcome: str) -> None:
        """Note what became of an event: `stored`, or why it was not acknowledged."""
        if outcome == "stored":
            self.acknowledged.add(mark)
        self.count(f"{client}: {outcome}")

    def count(self, outcome: str) -> None:
        """Count one more of what became of a request or stream."""
        with self._lock:
            self.counts[outcome] += 1


class Clients:
    """What the clients share. Each method is a client, which sends until all are stopped."""

    def __init__(self, server: Server, secret: str, authority: Path, results: Results) -> None:
        self._server = server
        self._secret = secret
        self._credentials = grpc.ssl_channel_credentials(authority.read_bytes())
        self._context = ssl.create_default_context(cafile=authority)
        self._results = results
        self._stop = threading.Event()

    def stop(self) -> None:
        """Let each end after what it sends now. A task that is cancelled as it connects may leave a socket open."""
        self._stop.set()

    async def rest(self) -> None:
        """Post over a connection that is kept."""
        async with self._http() as client:
            await self._repeat("rest", lambda mark: self._post(client, mark))

    async def rest_new(self) -> None:
        """Post, each time over a new connection."""

        async def post(mark: int) -> str:
            async with self._http() as client:
                return await self._post(client, mark)

        await self._repeat("rest, new connections", post)

    async def unary(self) -> None:
        """Call over a connection that is kept."""
        async with self._channel() as channel:
            await self._repeat("unary", lambda mark: self._call(channel, mark))

    async def unary_new(self) -> None:
        """Call, each time over a new connection."""

        async def call(mark: int) -> str:
            async with self._channel() as channel:
                return await self._call(channel, mark)

        await self._repeat("unary, new connections", call)

    async def stream(self) -> None:
        """Send over one stream after the other, in a thread: grpc.aio hides how a stream ends that it writes to."""
        await asyncio.to_thread(self._send_over_streams)

    async def _repeat(self, name: str, send: Callable[[int], Awaitable[str]]) -> None:
        while not self._stop.is_set():
            mark, began = self._results.next_mark(), time.monotonic()
            outcome = await send(mark)
            is_late = time.monotonic() - began > HANDSHAKE_S
            if outcome != "stored" and is_late and name.endswith("new connections"):
                outcome = LATE
            self._results.add(name, mark, outcome)
            await asyncio.sleep(PAUSE_S)

    def _http(self) -> httpx.AsyncClient:
        headers = {"X-API-Key": self._secret}
        return httpx.AsyncClient(
            base_url=self._server.url, headers=headers, verify=self._context, timeout=TIMEOUT_S, trust_env=False
        )

    async def _post(self, client: httpx.AsyncClient, mark: int) -> str:
        event = {"type": "purchase", "data": {"mark": mark}}
        try:
            response = await client.post(EVENTS, json={"source": "reloads", "events": [event]})
        except httpx.HTTPError as error:
            return type(error).__name__
        return "stored" if response.status_code == 201 else str(response.status_code)

    def _channel(self) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(self._server.grpc, self._credentials, options=OWN_CONNECTION)

    async def _call(self, channel: grpc.aio.Channel, mark: int) -> str:
        request = pb.IngestEventsRequest(batch=good_batch([mark]))
        try:
            await stub_of(channel).IngestEvents(request, metadata=metadata(self._secret), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return ending_of(error)
        return "stored"

    def _send_over_streams(self) -> None:
        with grpc.secure_channel(self._server.grpc, self._credentials, options=OWN_CONNECTION) as channel:
            while not self._stop.is_set():
                with Stream(channel, self._secret, timeout_s=LONG_S) as stream:
                    self._send_over(stream)
                time.sleep(PAUSE_S)

    def _send_over(self, stream: Stream) -> None:
        """Send batches over a stream until it ends, or all clients stop."""
        try:
            for _ in range(STREAM_WINDOW):
                self._send_next(stream)
            while not self._stop.is_set():
                response = stream.receive()
                self._results.add("stream", response.sequence, "stored" if response.HasField("receipt") else "error")
                time.sleep(PAUSE_S)
                self._send_next(stream)
        except StopIteration:
            self._results.count("streams: ended well, which nobody asked for")
        except grpc.RpcError as error:
            self._results.count(f"streams: {ending_of(error)}")

    def _send_next(self, stream: Stream) -> None:
        mark = self._results.next_mark()
        stream.send(mark, good_batch([mark]))


def ending_of(error: grpc.RpcError) -> str:
    """The code of an error, and whether the server said why: if not, the connection failed."""
    call = cast("grpc.Call", error)
    reason = "" if rpc_status.from_call(call) is not None else f" without a reason ({call.details()})"
    return f"{call.code().name}{reason}"
