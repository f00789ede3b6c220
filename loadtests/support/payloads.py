"""Makes batches such as a shop's backend sends. The same seed gives the same batches, so that runs can be compared."""

import json
from random import Random
from typing import Any

Json = dict[str, Any]

EVENT_TYPES = ("purchase", "signup", "page_view", "add_to_cart", "refund")

VARIETY = 8
"""Different batches that a generator makes and repeats, so that no two consecutive requests are equal."""


def make_event(random: Random) -> Json:
    """Make an event of about 280 bytes of JSON, with a timestamp and metadata."""
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
    """Make `count` events."""
    return [make_event(random) for _ in range(count)]


def make_batch(random: Random, count: int) -> bytes:
    """Make the JSON of a batch of `count` events."""
    return encode({"source": "backend", "events": make_events(random, count)})


def encode(value: Json) -> bytes:
    """Encode as JSON without spaces, as most clients do."""
    return json.dumps(value, separators=(",", ":")).encode()
