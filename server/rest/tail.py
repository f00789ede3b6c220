"""Follows events, as Server-Sent Events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Each message has an `event`, an `id` that is the resume token, and `data`. The last is `end`, which says why. Libraries
then connect again by themselves, with the token in `Last-Event-ID`.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from http import HTTPStatus

import msgspec
from litestar.types import HTTPScope, Receive, Send

from server.core.deadline import Deadline
from server.core.errors import Quota, SluiceError
from server.core.events.model import EventFilter
from server.core.tail.tail import Item, OpenTail, TailRequest, taken_in_time
from server.rest.events import EVENTS_PATH, encode_event, encode_json
from server.rest.http.disconnect import for_present_client
from server.rest.http.headers import Headers, credentials_of, headers_of, quota_headers, single_header
from server.rest.http.responses import CHUNK_BYTES, body_event
from server.rest.query import moment, name, parse_query
from server.services import Services
from server.status import refusal_of

TAIL_PATH = EVENTS_PATH + "/tail"

PARAMETERS = ("source", "event_type", "since")

RETRY_MS = 2_000
"""How long a client waits before it connects again: other workers take over at once, and an election takes as long."""

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would keep events back
]

NO_DATA = b"{}"


class EndBody(msgspec.Struct, omit_defaults=True):
    """The data of the last message: why the stream ends."""

    code: str
    detail: str
    since: str | None = None


def tail_events(services: Services) -> Callable[[HTTPScope, Receive, Send], Awaitable[None]]:
    """`GET /api/v1/events/tail`. It raises what `admit`, `parse_tail` and `Tail.follow` do."""

    async def respond(scope: HTTPScope, send: Send) -> None:
        headers, messages = headers_of(scope), Messages(send)
        credentials = credentials_of(headers)
        admitted = await services.admission.admit(credentials, "events:read", Deadline())
        with admitted.quota_in_errors():
            request = parse_tail(scope["query_string"], headers)
            try:
                async with services.tail.follow(credentials, admitted.key.tenant_id, request) as tail:
                    await messages.start(admitted.quota)
                    await messages.send_all(tail)
            except SluiceError as error:
                if not messages.has_started:
                    raise
                await messages.end(error)

    return for_present_client(respond, services.requests)


def parse_tail(query: bytes, headers: Headers) -> TailRequest:
    """What a request asks to follow. Raises InvalidParameter and InvalidHeader."""
    values = parse_query(query, PARAMETERS)
    where = EventFilter(
        source=name(values, "source"), event_type=name(values, "event_type"), since=moment(values, "since")
    )
    return TailRequest(where, single_header(headers, "last-event-id") or None)


class Messages:
    """The messages of one response."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._token = ""
        self.has_started = False
        """Whether the status is sent, so that an error can only be a message."""

    async def start(self, quota: Quota | None) -> None:
        """Send the head."""
        headers = [*STREAM_HEADERS, *((name.encode(), value.encode()) for name, value in quota_headers(quota).items())]
        self.has_started = True
        await self._send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": headers})
        await self._send(body_event(b"retry: %d\n\n" % RETRY_MS, more_body=True))

    async def send_all(self, tail: OpenTail) -> None:
        """Send what a tail brings. Raises why it ended."""
        async with aclosing(tail.items()) as batches:
            async for items in batches:
                async with taken_in_time():
                    for chunk, token in in_chunks(items):
                        await self._send(body_event(chunk, more_body=True))  # it waits, and then writes the whole chunk
                        self._token = token

    async def end(self, error: SluiceError) -> None:
        """Send why the tail ended."""
        refusal = refusal_of(error)
        body = encode_json(EndBody(refusal.code, refusal.detail, refusal.since))
        await self._send(body_event(message("end", self._token, body), more_body=False))


def in_chunks(items: Sequence[Item]) -> Iterator[tuple[bytes, str]]:
    """Items as chunks of whole messages, and the token of the last message of each."""
    chunk = b""
    for item in items:
        chunk += message(item.kind, item.token, NO_DATA if item.change is None else item.change.shown(encode_event))
        if len(chunk) > CHUNK_BYTES:
            yield chunk, item.token
            chunk = b""
    if chunk:
        yield chunk, items[-1].token


def message(event: str, token: str, data: bytes) -> bytes:
    """A message. Its data has no line break. An empty `id` would make clients forget theirs, so it is left out."""
    return b"event: %b\n%bdata: %b\n\n" % (event.encode(), f"id: {token}\n".encode() if token else b"", data)
