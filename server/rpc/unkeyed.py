"""Health and reflection: the methods that need no key.

The messages and, for reflection, the logic are the library's. Its handlers are not used as they are: they take messages
of any size, their calls outlast a drain, and they answer a bad message with the text of an exception.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import cast

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from server.core.errors import ClientGone, InvalidBatch, NotFound, Unavailable
from server.core.fair_limit import FairLimit
from server.rpc.accepting import Handlers
from server.rpc.arrivals import NO_MESSAGE, Context, MessageReader, SlowMessage
from server.rpc.errors import end_with
from server.rpc.messages import parse_message
from server.rpc.open_reads import OpenReads
from server.rpc.pacing import Pace
from server.rpc.tracing import begin_call

OVERALL = ""
"""The name for which health is asked about the server as a whole."""

HEALTH = health.SERVICE_NAME
REFLECTION_PACKAGES = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
"""Both versions have the same messages. Those of the library have the names of the second."""

REFLECTIONS = tuple(f"{package}.ServerReflection" for package in REFLECTION_PACKAGES)

MAX_CHECKS = 1_000
"""Calls to `Check` that are open at one time: those whose message is read, or waits to be. Each takes some 10 KB."""

MAX_STREAMS = 1_000
"""Calls to `Watch` and reflection that are open at one time: watches of load balancers. Each takes some 10 KB."""

MAX_STREAMS_OF_CONNECTION = 20
"""How many of them one connection may have: a load balancer has one for each service that it watches."""

TOO_MANY_CHECKS = "This server has as many open health checks as it can hold: retry after the time in RetryInfo"
TOO_MANY_STREAMS = (
    f"This server has as many open calls to Watch and reflection as it can hold, or this connection has "
    f"{MAX_STREAMS_OF_CONNECTION}: close some, or retry after the time in RetryInfo"
)


class CallLimits:
    """How many calls of a kind are open, and how many of their messages are arriving, in all and by connection.

    `Check` has its own, so that a probe is answered whatever others keep open.
    """

    def __init__(self, calls: FairLimit, too_many: str) -> None:
        self._calls = calls
        self._too_many = too_many
        self.reads = OpenReads()

    @contextmanager
    def open_call(self, connection: str) -> Iterator[None]:
        """One open call. Raises Unavailable if there are too many."""
        if not self._calls.try_acquire(connection, 1):
            raise Unavailable(detail=self._too_many)
        try:
            yield
        finally:
            self._calls.add(connection, -1)


class UnkeyedServices:
    """The health of this worker, and reflection of `services`."""

    def __init__(self, services: tuple[str, ...], messages: MessageReader, pace: Pace) -> None:
        self._messages = messages
        self._pace = pace
        self._is_draining = False
        self._serving = dict.fromkeys((OVERALL, *services), False)
        self._changed = asyncio.Condition()
        self._checks = CallLimits(FairLimit(MAX_CHECKS, MAX_CHECKS), TOO_MANY_CHECKS)
        self._streams = CallLimits(FairLimit(MAX_STREAMS, MAX_STREAMS_OF_CONNECTION), TOO_MANY_STREAMS)
        self._reflection = reflection.aio.ReflectionServicer((*services, HEALTH, *REFLECTIONS))

    async def set_serving(self, serving: bool) -> None:
        """Say whether this worker can serve calls."""
        async with self._changed:
            self._serving = dict.fromkeys(self._serving, serving and not self._is_draining)
            self._changed.notify_all()

    async def wait_until_serving(self, timeout_s: float) -> None:
        """Wait until this worker can serve calls, at most `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(lambda: self._serving[OVERALL])

    async def report_draining(self) -> None:
        """Say that this worker cannot serve calls, for good, and end the open ones."""
        self._is_draining = True
        await self.set_serving(False)

    def handlers(self) -> Handlers:
        """The methods by path. All take a stream of requests, so that a message is read only when we ask for it."""
        unary, stream = grpc.stream_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        health_response = HealthCheckResponse.SerializeToString
        reflection_response = ServerReflectionResponse.SerializeToString
        return {
            f"/{HEALTH}/Check": unary(self._guarded(self._check, self._checks), response_serializer=health_response),
            f"/{HEALTH}/Watch": stream(self._guarded(self._watch, self._streams), response_serializer=health_response),
            **{
                f"/{package}.ServerReflection/ServerReflectionInfo": stream(
                    self._guarded(partial(self._reflect, f"{package}.ServerReflectionRequest"), self._streams),
                    response_serializer=reflection_response,
                )
                for package in REFLECTION_PACKAGES
            },
        }

    def _guarded(
        self, method: Callable[[Context], Awaitable[HealthCheckResponse | None]], limits: CallLimits
    ) -> Callable[[AsyncIterator[bytes], Context], Awaitable[HealthCheckResponse | None]]:
        """`method`, within its limits, and ended by a drain. Its errors become our own statuses."""

        async def handler(_requests: AsyncIterator[bytes], context: Context) -> HealthCheckResponse | None:
            begin_call(context)
            try:
                with limits.open_call(context.peer()):
                    return await method(context)
            except (grpc.aio.BaseError, ClientGone):
                return None
            except SlowMessage as error:
                end_with(context, error)
                return None
            except Exception as error:  # noqa: BLE001 (its text must not reach the client)
                await self._pace.wait()
                end_with(context, error)
                return None

        return handler

    def _status(self, service: str) -> HealthCheckResponse:
        serving = self._serving.get(service)
        if serving is None:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        return HealthCheckResponse(status=HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)

    async def _service_asked_for(self, context: Context, limits: CallLimits) -> str:
        """The name in the only message of a health call. Raises InvalidBatch and Unavailable."""
        message = await self._messages.read_open(context, limits.reads)
        if message is None:
            raise InvalidBatch(NO_MESSAGE)
        return parse_message(HealthCheckRequest, message).service

    async def _check(self, context: Context) -> HealthCheckResponse:
        """`Check`: the health of a service now."""
        service = await self._service_asked_for(context, self._checks)
        if service not in self._serving:
            raise NotFound("There is no service of this name: leave it empty to ask about the whole server")
        return self._status(service)

    async def _watch(self, context: Context) -> None:
        """`Watch`: the health of a service now, and whenever it changes."""
        service = await self._service_asked_for(context, self._streams)
        sent: HealthCheckResponse | None = None
        while True:
            status = self._status(service)
            if status != sent:
                await context.write(status)
                sent = status
            async with self._changed:
                while self._status(service) == sent:
                    if self._is_draining:
                        return
                    await self._changed.wait()

    async def _reflect(self, request: str, context: Context) -> None:
        """`ServerReflectionInfo`: descriptions of services and messages, until the client is done.

        `request` is the name of the version's requests.
        """

        async def requests() -> AsyncIterator[ServerReflectionRequest]:
            while not self._is_draining:
                message = await self._messages.read_open(context, self._streams.reads)
                if message is None:
                    return
                yield parse_message(ServerReflectionRequest, message, request)

        responses = cast("AsyncIterator[Message]", self._reflection.ServerReflectionInfo(requests(), context))
        async for response in responses:
            await context.write(response)
