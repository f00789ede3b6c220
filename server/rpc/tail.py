"""The method `TailEvents` of `sluice.v1.EventService`."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager

import grpc
from sluice.v1 import event_service_pb2 as pb

from server.core.deadline import Deadline
from server.core.errors import ClientGone, InvalidBatch
from server.core.events.model import EventFilter
from server.core.tail.tail import Item, OpenTail, TailRequest, taken_in_time
from server.rpc.accepting import Handlers
from server.rpc.arrivals import NO_MESSAGE, Context, MessageReader
from server.rpc.errors import unless_failed
from server.rpc.filters import moment, name
from server.rpc.ingest import SERVICE, credentials_of
from server.rpc.messages import event_message, parse_message
from server.rpc.open_reads import OpenReads
from server.rpc.pacing import Pace
from server.rpc.tracing import as_request
from server.services import Services


class TailService:
    """The method for following events."""

    def __init__(self, services: Services, messages: MessageReader, pace: Pace) -> None:
        self._services = services
        self._messages = messages
        self._pace = pace
        self._reads = OpenReads()

    def handlers(self) -> Handlers:
        """The method by its path. It takes a stream of requests, so that the key is checked before the message."""
        return {
            f"/{SERVICE}/TailEvents": grpc.stream_stream_rpc_method_handler(
                self.tail_events, response_serializer=pb.TailEventsResponse.SerializeToString
            )
        }

    async def tail_events(self, _requests: AsyncIterator[bytes], context: Context) -> None:
        """Write events until the tail ends. The call's status says why."""
        handled = unless_failed(self._tail(context), context, self._pace)
        await as_request(handled, f"{SERVICE}/TailEvents", context, self._services.tracer)

    async def _tail(self, context: Context) -> None:
        with self._services.requests.open("grpc", is_read=True):
            await self._follow(context)

    async def _follow(self, context: Context) -> None:
        """Write events until the tail ends. Raises why it did."""
        credentials = credentials_of(context)
        admitted = await self._services.admission.admit(credentials, "events:read", Deadline())
        with admitted.quota_in_errors(), client_errors_as_gone():
            message = await self._messages.read_open(context, self._reads)
            if message is None:
                raise InvalidBatch(NO_MESSAGE)
            request = tail_request_of(parse_message(pb.TailEventsRequest, message))
            async with self._services.tail.follow(credentials, admitted.key.tenant_id, request) as tail:
                await context.send_initial_metadata(())  # the call is good, though nothing may be stored for long
                await write_items(tail, context)


@contextmanager
def client_errors_as_gone() -> Iterator[None]:
    """Raises ClientGone for the library's error that the client has cancelled the call, or is gone."""
    try:
        yield
    except grpc.aio.BaseError:
        raise ClientGone from None


async def write_items(tail: OpenTail, context: Context) -> None:
    """Write what a tail brings. Raises why it ended, and the library's error if the client is gone."""
    async with aclosing(tail.items()) as batches:
        async for items in batches:
            async with taken_in_time():
                for item in items:
                    await context.write(response_of(item))


def tail_request_of(request: pb.TailEventsRequest) -> TailRequest:
    """What a request asks to follow. Raises InvalidParameter."""
    where = EventFilter(
        source=name(request, "source") or None,
        event_type=name(request, "event_type") or None,
        since=moment(request, "since"),
    )
    return TailRequest(where, request.resume_token or None)


def response_of(item: Item) -> pb.TailEventsResponse:
    """An item as a response."""
    if item.change is not None:
        return pb.TailEventsResponse(resume_token=item.token, event=item.change.shown(event_message))
    if item.kind == "caught_up":
        return pb.TailEventsResponse(resume_token=item.token, caught_up=pb.CaughtUp())
    return pb.TailEventsResponse(resume_token=item.token, heartbeat=pb.Heartbeat())
