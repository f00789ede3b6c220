"""Shippers as `server/recipes` configures them: what they send becomes the right events, each once, whatever fails."""

import re
from collections.abc import Sequence

import httpx
import pytest

from tests.support.harness import Json, MongoClient, Server
from tests.support.raw import post_raw, stored_of
from tests.support.replay import RECIPES, Shipped, Shipper, ship
from tests.support.shippers import SHIPPERS
from tests.support.unreliable import Reply
from tests.support.unreliable_proxy import Cut, Fault, Stall, UnreliableProxy

COUNT, ITEMS = 12, 6
"""Items, and items in a body."""

TIMEOUT_S = 0.5
"""In place of the 30 s and more of the recipes."""

FAULTS: Sequence[Fault | None] = [Reply(429, "1"), Reply(503, "1"), Cut(), None, Stall(), None]
"""Those of the first body, and then of the second, which has a bad item."""


def shipped(mongo: MongoClient, key: Json) -> list[Shipped]:
    """What is stored, in the order of its times."""
    stored = [
        Shipped(event["source"], event["event_type"], event["data"], event["timestamp"])
        for event in stored_of(mongo, key)
    ]
    return sorted(stored, key=lambda event: event.timestamp)


@pytest.mark.parametrize("shipper", SHIPPERS.values(), ids=SHIPPERS)
def test_each_event_is_stored_once(server: Server, mongo: MongoClient, key: Json, shipper: Shipper) -> None:
    items = [shipper.item_of(number) for number in range(COUNT)]
    size = min(ITEMS, shipper.most_items)
    bodies = [items[start : start + size] for start in range(0, COUNT, size)]
    if size == 1:
        bodies.insert(1, [shipper.bad_item()])
    else:
        bodies[1].insert(1, shipper.bad_item())
    with UnreliableProxy(server.url, FAULTS) as proxy:
        statuses = [ship(shipper, proxy.address, key["key"], body, TIMEOUT_S) for body in bodies]
        assert proxy.faults == []
    assert statuses == [400 if body == [shipper.bad_item()] else 201 for body in bodies]
    assert shipped(mongo, key) == [shipper.event_of(number) for number in range(COUNT)]


@pytest.mark.parametrize("shipper", SHIPPERS.values(), ids=SHIPPERS)
def test_the_configuration_sets_the_media_type_that_is_sent(shipper: Shipper) -> None:
    configured = re.search(r"content.?type\W+(application/[\w-]+)", (RECIPES / shipper.file).read_text(), re.IGNORECASE)
    assert configured is None or f"content-type: {configured[1]}" in shipper.head.lower()


def test_formats_of_fluent_bit_that_are_rejected(client: httpx.Client) -> None:
    query = "source=fluent-bit&type=log"
    assert post_raw(client, query, b'{"log":"a"}{"log":"b"}', "application/json").status_code == 400
    assert post_raw(client, query, b"\x81\xa3log\xa1a", "application/msgpack").status_code == 415
