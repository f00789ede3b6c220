"""The method `TailEvents` of `sluice.v1.EventService`."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime
from uuid import UUID

import grpc
import msgspec
from google.protobuf.timestamp_pb2 import Timestamp
from sluice.v1 import event_service_pb2 as pb

from server.core.deadline import Deadline
from server.core.errors import ClientGone, InvalidBatch, InvalidParameter, Unauthenticated
from server.core.events.model import MAX_NAME_CHARS, EventFilter, StoredEvent
from server.core.tail.tail import Item, OpenTail, TailRequest, taken_in_time
from server.core.times import MAX_MS, MIN_MS, MS_PER_S, NS_PER_MS, to_milliseconds
from server.rpc.accepting import Handlers
from server.rpc.arrivals import NO_MESSAGE, Context, MessageReader
from server.rpc.errors import end_with
from server.rpc.ingest import SERVICE, credentials_of
from server.rpc.messages import parse_message
from server.rpc.open_reads import OpenReads
from server.rpc.pacing import Pace
from server.services import Services

NULL = msgspec.Raw(b"null")


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
        try:
            await self._tail(context)
        except (grpc.aio.BaseError, ClientGone):
            return
        except Unauthenticated as error:
            await self._pace.wait()
            end_with(context, error)
        except Exception as error:  # noqa: BLE001 (its text must not reach the client)
            end_with(context, error)

    async def _tail(self, context: Context) -> None:
        credentials = credentials_of(context)
        admitted = await self._services.admission.admit(credentials, "events:read", Deadline())
        with admitted.named_in_errors():
            message = await self._messages.read_open(context, self._reads)
            if message is None:
                raise InvalidBatch(NO_MESSAGE)
            request = tail_request_of(parse_message(pb.TailEventsRequest, message))
            async with self._services.tail.follow(credentials, admitted.key.tenant_id, request) as tail:
                await context.send_initial_metadata(())  # the call is good, though nothing may be stored for long
                await write_items(tail, context)


async def write_items(tail: OpenTail, context: Context) -> None:
    """Write what a tail brings. Raises why it ended, and the library's error if the client is gone."""
    async with aclosing(tail.items()) as batches:
        async for items in batches:
            async with taken_in_time():
                for item in items:
                    await context.write(response_of(item))


def tail_request_of(request: pb.TailEventsRequest) -> TailRequest:
    """What a request asks to follow. Raises InvalidParameter."""
    source, event_type = name_of(request, "source"), name_of(request, "event_type")
    since = None
    if request.HasField("since"):
        since = -(-(request.since.seconds * MS_PER_S * NS_PER_MS + request.since.nanos) // NS_PER_MS)
        if not MIN_MS <= since <= MAX_MS or not 0 <= request.since.nanos < MS_PER_S * NS_PER_MS:
            raise InvalidParameter("since: must be in the years 1 to 9999 in UTC", field="since")
    return TailRequest(EventFilter(source=source, event_type=event_type, since=since), request.resume_token or None)


def name_of(request: pb.TailEventsRequest, field: str) -> str | None:
    """A field that names a source or a type; None if it is empty. Raises InvalidParameter."""
    value: str = getattr(request, field)
    if len(value) > MAX_NAME_CHARS:
        raise InvalidParameter(f"{field}: must be 1 to {MAX_NAME_CHARS} characters", field=field)
    return value or None


def response_of(item: Item) -> pb.TailEventsResponse:
    """An item as a response."""
    if item.change is not None:
        return pb.TailEventsResponse(resume_token=item.token, event=item.change.shown(event_message))
    if item.kind == "caught_up":
        return pb.TailEventsResponse(resume_token=item.token, caught_up=pb.CaughtUp())
    return pb.TailEventsResponse(resume_token=item.token, heartbeat=pb.Heartbeat())


def event_message(event: StoredEvent) -> pb.StoredEvent:
    """A stored event as a message. A value that no client could store is JSON, or absent if it is a time."""
    return pb.StoredEvent(
        id=text_of(event.id),
        tenant_id=text_of(event.tenant_id),
        source=text_of(event.source),
        source_id=None if event.source_id == NULL else text_of(event.source_id),
        event_type=text_of(event.event_type),
        data_json=bytes(event.data),
        timestamp=time_of(event.timestamp),
        received_at=time_of(event.received_at),
        metadata_json=b"" if event.metadata == NULL else bytes(event.metadata),
    )


def text_of(value: UUID | str | msgspec.Raw) -> str:
    """A value as text. JSON stays as it is."""
    return bytes(value).decode() if isinstance(value, msgspec.Raw) else str(value)


def time_of(value: datetime | msgspec.Raw) -> Timestamp | None:
    """A time as a message."""
    if isinstance(value, msgspec.Raw):
        return None
    seconds, milliseconds = divmod(to_milliseconds(value), MS_PER_S)
    return Timestamp(seconds=seconds, nanos=milliseconds * NS_PER_MS)
