"""Health and reflection: the methods that need no key.

The messages and, for reflection, the logic are the library's. Its handlers are not used as they are: they take messages
of any size, their calls outlast a drain, and they answer a bad message with the text of an exception.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import cast

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from server.core.errors import ClientGone, InvalidBatch, NotFound, Unavailable
from server.rpc.accepting import Handlers
from server.rpc.arrivals import NO_MESSAGE, Context, MessageReader
from server.rpc.errors import end_with
from server.rpc.messages import parse_message
from server.rpc.pacing import Pace

OVERALL = ""
"""The name for which health is asked about the server as a whole."""

HEALTH = health.SERVICE_NAME
REFLECTIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""Both versions have the same messages."""

MAX_OPEN_CALLS = 1_000
"""Calls of these methods that are open at one time: watches of load balancers. Each takes some 10 KB."""

TOO_MANY = "This server has as many open calls to health and reflection as it can hold: retry later"


class UnkeyedServices:
    """The health of this worker, and reflection of `services`."""

    def __init__(self, services: tuple[str, ...], messages: MessageReader, pace: Pace) -> None:
        self._messages = messages
        self._pace = pace
        self._is_draining = False
        self._serving = dict.fromkeys((OVERALL, *services), False)
        self._changed = asyncio.Condition()
        self._open_calls = 0
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
        reflect = self._guarded(self._reflect)
        reflection_response = ServerReflectionResponse.SerializeToString
        return {
            f"/{HEALTH}/Check": unary(self._guarded(self._check), response_serializer=health_response),
            f"/{HEALTH}/Watch": stream(self._guarded(self._watch), response_serializer=health_response),
            **{
                f"/{name}/ServerReflectionInfo": stream(reflect, response_serializer=reflection_response)
                for name in REFLECTIONS
            },
        }

    def _guarded(
        self, method: Callable[[Context], Awaitable[HealthCheckResponse | None]]
    ) -> Callable[[AsyncIterator[bytes], Context], Awaitable[HealthCheckResponse | None]]:
        """`method`, ended by a drain. Its errors become our own statuses."""

        async def handler(_requests: AsyncIterator[bytes], context: Context) -> HealthCheckResponse | None:
            try:
                with self._open_call():
                    return await method(context)
            except (grpc.aio.BaseError, ClientGone):
                return None
            except Exception as error:  # noqa: BLE001 (its text must not reach the client)
                await self._pace.wait()
                end_with(context, error)
                return None

        return handler

    @contextmanager
    def _open_call(self) -> Iterator[None]:
        """One open call. Raises Unavailable if there are too many."""
        if self._open_calls >= MAX_OPEN_CALLS:
            raise Unavailable(detail=TOO_MANY)
        self._open_calls += 1
        try:
            yield
        finally:
            self._open_calls -= 1

    def _status(self, service: str) -> HealthCheckResponse:
        serving = self._serving.get(service)
        if serving is None:
            return HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        return HealthCheckResponse(status=HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)

    async def _service_asked_for(self, context: Context) -> str:
        """The name in the only message of a health call. Raises InvalidBatch and Unavailable."""
        message = await self._messages.read_open(context)
        if message is None:
            raise InvalidBatch(NO_MESSAGE)
        return parse_message(HealthCheckRequest, message).service

    async def _check(self, context: Context) -> HealthCheckResponse:
        """`Check`: the health of a service now."""
        service = await self._service_asked_for(context)
        if service not in self._serving:
            raise NotFound("There is no service of this name: leave it empty to ask about the whole server")
        return self._status(service)

    async def _watch(self, context: Context) -> None:
        """`Watch`: the health of a service now, and whenever it changes."""
        service = await self._service_asked_for(context)
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

    async def _reflect(self, context: Context) -> None:
        """`ServerReflectionInfo`: descriptions of services and messages, until the client is done."""

        async def requests() -> AsyncIterator[ServerReflectionRequest]:
            while not self._is_draining:
                message = await self._messages.read_open(context)
                if message is None:
                    return
                yield parse_message(ServerReflectionRequest, message)

        responses = cast("AsyncIterator[Message]", self._reflection.ServerReflectionInfo(requests(), context))
        async for response in responses:
            await context.write(response)
