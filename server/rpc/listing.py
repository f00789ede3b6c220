"""The method `ListEvents` of `sluice.v1.EventService`: a list of events page by page (AIP-158)."""

import asyncio
from collections.abc import AsyncIterator

import grpc
from google.protobuf.message import DecodeError
from sluice.v1 import event_service_pb2 as pb

from server.core.deadline import Deadline
from server.core.errors import InvalidParameter, Unavailable
from server.core.events.model import DEFAULT_PAGE_EVENTS, MAX_PAGE_EVENTS, EventFilter
from server.core.events.store import PageSize, Position
from server.rpc.accepting import Handlers
from server.rpc.arrivals import Context, MessageReader
from server.rpc.errors import unless_failed
from server.rpc.filters import moment, name
from server.rpc.ingest import DRAINING, SERVICE, credentials_of
from server.rpc.messages import event_message
from server.rpc.open_reads import OpenReads
from server.rpc.pacing import Pace
from server.rpc.tracing import as_request
from server.services import Services

MAX_PAGE_BYTES = 576 * 1024
"""Stored bytes of a page, unless one event is larger. Clients receive messages of 4 MiB by default, and JSON takes at
most 6 bytes for a stored one, for control characters. Ids and times are text, so a small event takes some more."""

STEP_EVENTS = 50
"""Events that are made at a time. Then other requests run."""

NO_MESSAGE = "The call has no complete message: send a sluice.v1.ListEventsRequest"
OTHER_LIST = (
    "page_token: belongs to another list: take it from next_page_token of a page, with the same key and filters"
)


class Listing:
    """The method."""

    def __init__(self, services: Services, messages: MessageReader, pace: Pace) -> None:
        self._services = services
        self._messages = messages
        self._pace = pace
        self._arriving = OpenReads()

    def handlers(self) -> Handlers:
        """The method by path. It takes a stream, as `IngestEvents` does, so that its key is checked first."""
        return {
            f"/{SERVICE}/ListEvents": grpc.stream_unary_rpc_method_handler(
                self.list_events, response_serializer=pb.ListEventsResponse.SerializeToString
            )
        }

    async def list_events(self, _requests: AsyncIterator[bytes], context: Context) -> pb.ListEventsResponse | None:
        """One page. A rejected request has no response: the call's status says why."""
        handled = unless_failed(self._page(context), context, self._pace)
        return await as_request(handled, f"{SERVICE}/ListEvents", context, self._services.tracer)

    async def _page(self, context: Context) -> pb.ListEventsResponse:
        with self._services.requests.open("grpc", is_read=True):
            if self._services.draining.is_set():
                raise Unavailable(None, DRAINING)
            deadline = Deadline()
            key = await self._services.admission.authenticate(credentials_of(context), "events:read", deadline)
            request = parse_request(await self._messages.read_open(context, self._arriving))
            where, size = filter_of(request), page_size_of(request)
            start = Position(0)
            if request.page_token:
                try:
                    start = self._services.cursors.decode(key.tenant_id, where, request.page_token)
                except InvalidParameter:
                    raise InvalidParameter(OTHER_LIST, "page_token") from None
            async with self._services.reads.page(key.tenant_id, where, start, size, deadline) as page:
                response = pb.ListEventsResponse()
                async for event in page.events:
                    response.events.append(event_message(event))
                    if len(response.events) % STEP_EVENTS == 0:
                        await asyncio.sleep(0)
            if page.rest is not None:
                response.next_page_token = self._services.cursors.encode(key.tenant_id, where, page.rest)
            return response


def parse_request(message: bytes | None) -> pb.ListEventsRequest:
    """The request in a message. Raises InvalidParameter."""
    try:
        if message is not None:
            return pb.ListEventsRequest.FromString(message)
    except DecodeError:
        pass
    raise InvalidParameter(NO_MESSAGE)


def filter_of(request: pb.ListEventsRequest) -> EventFilter:
    """The filter of a request. Raises InvalidParameter."""
    return EventFilter(
        source=name(request, "source") or None,
        event_type=name(request, "event_type") or None,
        source_id=name(request, "source_id") if request.HasField("source_id") else None,
        since=moment(request, "since"),
        until=moment(request, "until"),
    )


def page_size_of(request: pb.ListEventsRequest) -> PageSize:
    """How much a page may hold. Raises InvalidParameter."""
    if request.page_size < 0:
        raise InvalidParameter("page_size: must not be negative; 0 is the default", "page_size")
    return PageSize(min(request.page_size or DEFAULT_PAGE_EVENTS, MAX_PAGE_EVENTS), MAX_PAGE_BYTES)
