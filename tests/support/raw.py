"""Raw bodies for `POST /api/v1/events?source=...`, and what is stored of them."""

import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from tests.support.harness import Json, MongoClient
from tests.support.problems import EVENTS

NDJSON = "application/x-ndjson"


def lines_of(items: Sequence[Any]) -> bytes:
    """Items as NDJSON."""
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def numbered(count: int) -> bytes:
    """NDJSON of objects with the numbers from 0."""
    return lines_of([{"index": index} for index in range(count)])


def post_raw(
    client: httpx.Client, query: str, body: bytes | Iterator[bytes], media_type: str = NDJSON, **headers: str
) -> httpx.Response:
    """POST a raw body. Headers are named with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(f"{EVENTS}?{query}", content=body, headers={"Content-Type": media_type, **named})


def progress_of(mongo: MongoClient, key: Json) -> Json | None:
    """The progress that is saved of the only raw body of the key's tenant; None if there is none."""
    found = mongo.sluice.claims.find_one({"tenant_id": uuid.UUID(key["tenant_id"]), "progress": {"$exists": True}})
    return found and found["progress"]


def stored_of(mongo: MongoClient, key: Json) -> list[Json]:
    """The events of the key's tenant, in the order of their ids."""
    return list(mongo.sluice.events.find({"_id.tenant_id": uuid.UUID(key["tenant_id"])}, sort=[("_id", 1)]))
