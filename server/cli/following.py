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

from server.cli.event_stream import EventStream, Message
from server.cli.http_client import Client, Retries, client_of
from server.cli.recent_ids import RecentIds
from server.cli.remote import Remote, RemoteError, Retryable
from server.cli.tail_output import TailOutput
from server.core.times import parse_bound
from server.runtime.logs import announce

EVENTS_PATH = "/api/v1/events"
TAIL_PATH = EVENTS_PATH + "/tail"
SSE = "text/event-stream"

SILENCE_S = 45
"""How long nothing may come. There is a heartbeat at least every 15 s."""

NEXT_CURSOR = re.compile(r'[?&]cursor=([^&>]+)[^>]*>; rel="next"')


class Start(NamedTuple):
    """Where a tail starts: with the newest `last` events, or those received from `since` on; else now."""

    since: str | None
    last: int


class Event(msgspec.Struct):
    """What is read of an event."""

    id: UUID


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
            await tail.print_last(start.last)
        await tail.run()


class Tail:
    """What is followed, and how far it was printed."""

    def __init__(self, client: Client, names: Mapping[str, str], since: str | None) -> None:
        self._client = client
        self._names = names
        self._since = since
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

    async def print_last(self, count: int) -> None:
        """Print the newest events, oldest first. `run` goes on without a gap.

        The token is from before the list is read, so what is stored meanwhile is in the list, or comes after the token,
        or both. What is in both is known by its id.
        """
        self._token = await self._retries.run(self._first_token)
        events = await self._retries.run(lambda: self._newest(count))
        self._print(events[::-1])

    async def _first_token(self) -> str:
        """The token for now."""
        async with self._client.request("GET", TAIL_PATH, SSE, params=self._names, timeout_s=SILENCE_S) as response:
            stream = EventStream()
            async for chunk in response.content.iter_any():
                for message in stream.feed(chunk):
                    raise_if_end(message)
                    return message.token
        raise Retryable(f"the connection to {self._client.url} was lost")

    async def _newest(self, count: int) -> Sequence[bytes]:
        """The newest events, newest first."""
        events = list[bytes]()
        cursor: dict[str, str] = {}
        while True:
            params = {**self._names, "limit": str(count - len(events)), **cursor}
            async with self._client.request("GET", EVENTS_PATH, "application/json", params=params) as response:
                page = msgspec.json.decode(await response.read(), type=list[msgspec.Raw])
                following = NEXT_CURSOR.search(response.headers.get("Link", ""))
            events += map(bytes, page)
            if following is None or len(events) >= count:
                return events
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
        """Print those that were not printed."""
        new = [event for event in events if self._printed.add(msgspec.json.decode(event, type=Event).id)]
        self._output.print_events(new)

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
