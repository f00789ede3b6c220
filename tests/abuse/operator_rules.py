"""Indexes and validators of an operator, many at one time, under clients that break them and repeat their batches.

Every event carries a mark of its own. In the end, the events of each acknowledged batch are compared with those stored:
all of a strict batch, those that the receipt names of a lenient one, none of a rejected one, and none twice.
"""

import random
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
from pymongo.collection import Collection

from tests.support.harness import Json, MongoClient, Server
from tests.support.mongod import Mongod

EVENTS = "/api/v1/events"

CLIENTS = 8
"""Clients at one time: several groups of the server's inserts have bad events of several of them."""

REPEATS = (1, 1, 2, 3)
"""How often a batch is sent at one time, under one idempotency key."""

BAD: dict[str, Json] = {
    "text": {"language": "klingon"},
    "2dsphere": {"place": {"type": "Point", "coordinates": [999, 0]}},
    "two arrays": {"a": [1], "b": [2]},
    "hashed": {"hashed": [1, 2]},
    "validator": {"poison": 1},
}
"""Data that an index or the validator refuses. The unique index is broken by what others have stored."""


class Sent(NamedTuple):
    """A batch, and the responses to it."""

    marks: list[str]
    lenient: bool
    has_key: bool
    responses: list[httpx.Response]


def add_rules(events: Collection[Json]) -> None:
    """What the operator adds."""
    exists = {"data.transaction_id": {"$exists": True}}
    events.create_index([("data.transaction_id", 1)], unique=True, partialFilterExpression=exists)
    events.create_index([("$**", "text")])
    events.create_index([("data.place", "2dsphere")])
    events.create_index([("data.a", 1), ("data.b", 1)])
    events.create_index([("data.hashed", "hashed")])
    events.database.command("collMod", "events", validator={"data.poison": {"$exists": False}})


def run_rules(directory: Path, driver: str, seconds: float, seed: int) -> Counter[str]:
    """Send batches for `seconds`. Returns how often there was which response. Fails if one of them is not true."""
    with ExitStack() as stack:
        mongod = stack.enter_context(Mongod(directory / "db"))
        mongo = stack.enter_context(mongod.client())
        options = ("--mongodb-url", mongod.url, "--driver", driver, "--workers", "2")
        server = stack.enter_context(Server(directory / "data", *options))
        key = server.create_key("rules", "--rate-limit", "0")
        add_rules(mongo.sluice.events)
        client = stack.enter_context(server.client(key["key"]))
        pool = stack.enter_context(ThreadPoolExecutor(CLIENTS * max(REPEATS)))
        ends, sent = time.monotonic() + seconds, list[Sent]()

        def run_client(number: int) -> None:
            rng = random.Random(f"{seed} {number}")
            while time.monotonic() < ends:
                sent.append(send(client, pool, rng, len(sent)))

        with ThreadPoolExecutor(CLIENTS) as clients:
            for done in [clients.submit(run_client, number) for number in range(CLIENTS)]:
                done.result()
        check(mongo, sent)
        assert "internal error" not in server.stderr()
        return Counter(str(response.status_code) for batch in sent for response in batch.responses)


def send(client: httpx.Client, pool: ThreadPoolExecutor, rng: random.Random, number: int) -> Sent:
    """Send a batch with good and bad events, perhaps several times at one time."""
    marks = [uuid.uuid4().hex for _ in range(rng.randint(1, 5))]
    events = [{"type": "a", "data": {"mark": mark, **draw(rng, number)}} for mark in marks]
    lenient, repeats = rng.random() < 0.5, rng.choice(REPEATS)
    has_key = repeats > 1 or rng.random() < 0.5
    headers = {"Prefer": "handling=lenient"} if lenient else {}
    if has_key:
        headers["Idempotency-Key"] = marks[0]
    body = {"source": "rules", "events": events}
    posts = [pool.submit(client.post, EVENTS, json=body, headers=headers) for _ in range(repeats)]
    return Sent(marks, lenient, has_key, [post.result() for post in posts])


def draw(rng: random.Random, number: int) -> Json:
    """The data of an event: mostly good, or good if no other event has the same transaction."""
    if rng.random() < 0.15:
        return BAD[rng.choice(list(BAD))]
    return {"transaction_id": f"T{rng.randint(0, 10 * (number + 1))}"} if rng.random() < 0.3 else {}


def check(mongo: MongoClient, sent: list[Sent]) -> None:
    """What is stored is what was said."""
    stored: dict[str, list[str]] = {}
    for event in mongo.sluice.events.find({}, {"data.mark": 1}):
        stored.setdefault(event["data"]["mark"], []).append(str(event["_id"]["id"]))
    for batch in sent:
        found = [each for mark in batch.marks for each in stored.get(mark, [])]
        receipts = [ids_of(response) for response in batch.responses if response.status_code == 201]
        unknown = [response for response in batch.responses if response.status_code == 503]
        assert not unknown or len(batch.responses) > 1, unknown[0].text  # one of several may have refused it meanwhile
        if receipts or not unknown:
            assert found == (receipts[0] if receipts else []), (batch, found)
        assert all(receipt == receipts[0] for receipt in receipts), receipts
        assert batch.lenient or len(found) in (0, len(batch.marks)), batch
        for response in batch.responses:
            check_errors(batch, response)


def ids_of(response: httpx.Response) -> list[str]:
    """The ids in a receipt."""
    return [event["id"] for event in response.json()["events"]]


def check_errors(batch: Sent, response: httpx.Response) -> None:
    """A rejection names each bad event, and with its reason."""
    body = response.json()
    errors = body.get("errors", [])
    match response.status_code:
        case 201:
            assert len(errors) == (len(batch.marks) - body["events_received"] if batch.lenient else 0), body
        case 400:
            assert body["code"] == "invalid_batch"
            assert errors, body
        case status:
            assert (status, body["outcome"]) == (503, "unknown")
    for error in errors:
        assert error["path"] in {f"events[{index}]" for index in range(len(batch.marks))}
        assert error["message"].startswith("Rejected by "), error
