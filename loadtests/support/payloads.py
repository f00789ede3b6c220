"""What the load tests send: batches as a shop's backend makes them, the same ones for the same seed.

Imports the standard library only.
"""

import json
from random import Random
from typing import Any

Json = dict[str, Any]

EVENT_TYPES = ("purchase", "signup", "page_view", "add_to_cart", "refund")

VARIETY = 8
"""Different batches that a generator makes and sends again and again: enough that no two neighbours are alike."""


def make_event(random: Random) -> Json:
    """An event of about 280 bytes of JSON, with a time of its own and metadata."""
    number = random.randrange(10**6)
    return {
        "type": random.choice(EVENT_TYPES),
        "data": {
            "transaction_id": f"TXN-{number:06}",
            "user_id": f"usr_{random.getrandbits(48):012x}",
            "value": random.randrange(100, 50_000) / 100,
            "currency": random.choice(("USD", "EUR", "GBP")),
            "items": random.randrange(1, 9),
            "coupon": None,
            "returning": random.random() < 0.5,
            "path": f"/checkout/{number:06}/payment",
        },
        "timestamp": f"2026-03-{random.randrange(1, 29):02}T12:{random.randrange(60):02}:{random.randrange(60):02}Z",
        "metadata": {"sdk": "python/2.4.1", "region": random.choice(("eu-west-1", "us-east-1"))},
    }


def make_events(random: Random, count: int) -> list[Json]:
    """So many events."""
    return [make_event(random) for _ in range(count)]


def make_batch(random: Random, count: int) -> bytes:
    """The JSON of a batch of `count` events."""
    return encode({"source": "backend", "events": make_events(random, count)})


def encode(value: Json) -> bytes:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()
