"""Replays shippers: sends what a shipper sends, byte by byte, and sends it again when the shipper does."""

import json
import re
import socket
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from tests.support.harness import Json
from tests.support.readmes import ROOT

RECIPES = ROOT / "server" / "recipes"

BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
"""The time of the first item."""

RETRY_WAIT_S = 0.05
"""In place of the seconds that shippers wait."""


class Shipped(NamedTuple):
    """An event as a shipper means it."""

    source: str
    type: str
    data: Json
    timestamp: datetime


class Shipper(NamedTuple):
    """What one shipper sends."""

    file: str
    """Its configuration in `server/recipes`, which says the path and the query."""
    head: str
    """Its header fields: {host}, {key} and {length} are filled in."""
    item: str
    """An item: {number} is its number, and {time} its time."""
    time: Callable[[datetime], str]
    body: Callable[[Sequence[str]], bytes]
    dropped: frozenset[int]
    """The statuses after which it gives up. It sends the same bytes again after all others, and if no response came."""
    type: str = "log"
    most_items: int = 1_000
    """The largest number of items in a body."""

    @property
    def target(self) -> str:
        """Path and query."""
        found = re.search(r"/?api/v1/events\?[^\s\"]+", (RECIPES / self.file).read_text())
        assert found is not None
        return "/" + found[0].removeprefix("/")

    def item_of(self, number: int) -> str:
        """The item with this number."""
        moment = BEGIN + timedelta(seconds=number)
        return self.item.replace("{number}", str(number)).replace("{time}", self.time(moment))

    def bad_item(self) -> str:
        """An item whose time cannot be read."""
        return self.item.replace("{number}", "0").replace("{time}", '"soon"')

    def event_of(self, number: int) -> Shipped:
        """What the item with this number is to become."""
        source = re.search(r"[?&]source=([^&]+)", self.target)
        assert source is not None
        return Shipped(source[1], self.type, json.loads(self.item_of(number)), BEGIN + timedelta(seconds=number))

    def request(self, address: str, secret: str, items: Sequence[str]) -> bytes:
        """The request that it sends to HOST:PORT."""
        body = self.body(items)
        head = self.head.format(host=address, key=secret, length=len(body)).strip()
        lines = [f"POST {self.target} HTTP/1.1", *head.splitlines()]
        return "\r\n".join([*lines, "", ""]).encode() + body


def ship(shipper: Shipper, address: str, secret: str, items: Sequence[str], timeout_s: float) -> int:
    """Send a body until it is stored or the shipper gives up. Returns the status."""
    request = shipper.request(address, secret, items)
    while True:
        status = status_of(address, request, timeout_s)
        if status is not None and (status < 300 or status in shipper.dropped):
            return status
        time.sleep(RETRY_WAIT_S)


def status_of(address: str, request: bytes, timeout_s: float) -> int | None:
    """The status of the response to a request, or nothing if none came in time."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=timeout_s) as connection:
            connection.sendall(request)
            line = connection.makefile("rb").readline()
    except OSError:  # refused, reset or too late
        return None
    return int(line.split()[1]) if line.endswith(b"\n") else None
