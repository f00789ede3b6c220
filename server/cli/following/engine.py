"""Follows events: prints them as they are stored, each exactly once, also over lost connections and restarts.

The server sends a token with each event. After a lost connection, the request with the last token brings what follows.
If the database no longer has that part of its log, events are read again by time, and those that were printed are
known by their ids.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Never
from urllib.parse import unquote_plus
from uuid import UUID

import msgspec

from server.cli.following.event_stream import EventStream, Message
from server.cli.following.output import TailOutput
from server.cli.following.recent_ids import RecentIds
from server.cli.http_client import Client, client_of
from server.cli.remote import Remote, RemoteError, Retryable
from server.cli.retries import Retries
from server.core.events.model import MAX_PAGE_EVENTS
from server.core.times import parse_bound
from server.runtime.logs import announce

EVENTS_PATH = "/api/v1/events"
TAIL_PATH = EVENTS_PATH + "/tail"
SSE = "text/event-stream"

SILENCE_S = 45
"""How long nothing may come. There is a heartbeat at least every 15 s."""

LONG_AGO = "1970-01-01"

NEXT_CURSOR = re.compile(r'[?&]cursor=([^&>]+)[^>]*>; rel="next"')


class Start(NamedTuple):
    """Where a tail starts: with the newest `last` events, or those received from `since` on; else now."""

    since: str | None
    last: int


class Event(msgspec.Struct):
    """What is read of an event."""

    id: UUID
    received_at: str


class End(msgspec.Struct):
    """Why the server ended a tail."""

    code: str
    detail: str
    since: str | None = None


async def follow(remote: Remote, names: Mapping[str, str], start: Start) -> Never:
    """Print the events with these names. Raises RemoteError, OutputError and ReaderGone."""
    async with client_of(remote) as client:
        tail = Tail(client, names, start.since)
        if start.last:
            await tail.start_at_last(start.last)
        await tail.run()


class Tail:
    """What is followed, and how far it was printed."""

    def __init__(self, client: Client, names: Mapping[str, str], since: str | None) -> None:
        self._client = client
        self._names = names
        self._since = since
        self._first: Event | None = None
        """The first event to print; None if that is any."""
        self._token = ""
        self._printed = RecentIds()
        self._output = TailOutput()
        self._retries = Retries()

    async def run(self) -> Never:
        """Print what comes. Raises RemoteError, OutputError and ReaderGone."""
        while True:
            try:
                await self._retries.run(self._receive)
            except RemoteError as error:
                if error.problem.get("code") != "gone":
                    raise
                self._read_again(str(error.problem["since"]))

    async def start_at_last(self, count: int) -> None:
        """Let `run` start with the newest `count` events. Raises RemoteError.

        It starts at the time of the oldest of these. So what is stored meanwhile comes after them, in order.
        """
        self._first = await self._retries.run(lambda: self._nth_newest(count))
        self._since = f"{self._first.received_at}Z" if self._first else LONG_AGO

    async def _nth_newest(self, count: int) -> Event | None:
        """The oldest of the newest `count` events; None if there are no events."""
        oldest, cursor = None, dict[str, str]()
        while True:
            params = {**self._names, "limit": str(min(count, MAX_PAGE_EVENTS)), **cursor}
            async with self._client.request("GET", EVENTS_PATH, "application/json", params=params) as response:
                page = msgspec.json.decode(await response.read(), type=list[Event])
                following = NEXT_CURSOR.search(response.headers.get("Link", ""))
            oldest = page[-1] if page else oldest
            count -= len(page)
            if following is None or count <= 0:
                return oldest
            cursor = {"cursor": unquote_plus(following[1])}

    async def _receive(self) -> Never:
        """Print what one response brings. Raises RemoteError."""
        params, headers = dict(self._names), {"Last-Event-ID": self._token}
        if not self._token:
            params, headers = params | ({"since": self._since} if self._since else {}), {}
        async with self._client.request(
            "GET", TAIL_PATH, SSE, params=params, headers=headers, timeout_s=SILENCE_S
        ) as response:
            stream = EventStream()
            async for chunk in response.content.iter_any():
                self._take(stream.feed(chunk))
        raise Retryable(f"the connection to {self._client.url} was lost")

    def _take(self, messages: Sequence[Message]) -> None:
        """Print the events of some messages, which came together."""
        self._print([message.data for message in messages if message.kind == "event"])
        for message in messages:
            self._token = message.token or self._token
            raise_if_end(message)
        if messages:
            self._retries.succeeded()

    def _print(self, events: Sequence[bytes]) -> None:
        """Print those that were not printed, and are not before the first."""
        new = [event for event in events if self._is_new(msgspec.json.decode(event, type=Event))]
        self._output.print_events(new)

    def _is_new(self, event: Event) -> bool:
        """Whether an event is to be printed. Events of one time come in the order of their ids."""
        first = self._first
        if first is not None and event.received_at == first.received_at and event.id < first.id:
            return False
        return self._printed.add(event.id)

    def _read_again(self, since: str) -> None:
        """Go on without a token, from a time on."""
        self._token, self._since = "", since
        warning = "" if self._printed.reaches_back_to(parse_bound(since)) else ": some may come a second time"
        announce(f"the database no longer has what followed: reading events received since {since} again{warning}")


def raise_if_end(message: Message) -> None:
    """Raises RemoteError if this message ends the tail."""
    if message.kind == "end":
        end = msgspec.json.decode(message.data, type=End)
        kind = Retryable if end.code == "unavailable" else RemoteError
        raise kind(end.detail, msgspec.to_builtins(end))
