"""The ids of a raw body ascend in the order of its items, also if its pieces are stored faster than the clock ticks."""

import uuid
from itertools import pairwise

import httpx

from tests.support.harness import Json, MongoClient
from tests.support.raw import numbered, post_raw

COUNT = 2_010
"""The last piece is small, so it is begun less than 1 ms after the one before."""

BODIES = 5


def test_pieces_of_one_millisecond(client: httpx.Client, key: Json, mongo: MongoClient) -> None:
    for at in range(BODIES):
        assert post_raw(client, f"source=s{at}&type=t", numbered(COUNT)).status_code == 201
    tenant = {"_id.tenant_id": uuid.UUID(key["tenant_id"])}
    for at in range(BODIES):
        events = list(mongo.sluice.events.find({**tenant, "source": f"s{at}"}, sort=[("_id", 1)]))
        assert [each["data"]["index"] for each in events] == list(range(COUNT))
        times = [events[first]["received_at"] for first in (0, 1_000, 2_000)]
        assert all(one < other for one, other in pairwise(times))
