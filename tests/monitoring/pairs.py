"""Compares what rules find, while clients write, with a count of the whole collection by brute force.

Four writers send events of several types with random data, over REST and gRPC, to a server with two workers. It
evaluates random rules of all types every few seconds. At the end of each minute an insert hangs, so some events are
stored long after their minute. Three things must be true of each result:

1. It is what the brute force finds in the collection, as soon as the window is complete and also at the end.
2. It is what the other evaluations of the same rule and window found.
3. It is what `evaluate` finds, as long as the window is the last one that is complete.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Self
from uuid import UUID

import httpx
from sluice.v1 import event_service_pb2 as pb

from server.core.rules.windows import COMPLETE_AFTER_MS
from server.core.times import MS_PER_S, from_milliseconds, parse_time, to_milliseconds
from tests.support.brute_force import Found, find
from tests.support.evaluations import RULES
from tests.support.grpc_client import Stream, channel_to, ingest
from tests.support.harness import Json, MongoClient, Server, wait_until
from tests.support.mongod import Mongod, block_next_insert

RULE_COUNT = 60

MINUTES = 5
"""How long the writers write. Nearly each minute has a window of each rule."""

PAIRS = 200
"""How many there must be, of a rule and a window."""

WORKERS = 2

INTERVAL = "5s"

HANG_MS = 8_000
"""How long an insert hangs: nearly as long as a request may take."""

HANGS_BEFORE_MS = 500
"""How long before the end of a minute."""

COMPARED_AFTER_MS = 10_000
"""How long after a minute is complete: a due time and the evaluation of all rules fit into it."""

STREAM_S = 3_600

MINUTE_S = 60
MINUTE_MS = 60_000

PAUSE_S = 0.6
"""Between two batches of a writer, at most."""

NAMES = ("a", "b", "c", "$d", "_id", "a.b")
PATHS = ("a", "b", "c", "a.a", "a.b", "b.a", "a.b.a", "b.c", "$d", "a.$d", "_id")
JSON_TYPES = ("string", "integer", "number", "boolean", "object", "array", "null")
EVENT_TYPES = ("view", "order", "rare")
SOURCES = ("web", "app")

Batch = tuple[str, list[tuple[str, Json]]]
"""A source, and types with data."""


class Pair(NamedTuple):
    """A rule and a window."""

    rule_id: str
    start_ms: int
    end_ms: int


class Figures(NamedTuple):
    """What was compared."""

    events: int
    hung: int
    """Inserts that were stored long after the minute of their events."""
    results: int
    pairs: int
    at_once: int
    """Pairs that were compared while the writers wrote."""
    again: int
    """Pairs that `evaluate` evaluated again."""

    def line(self) -> str:
        """The figures for people."""
        return (
            f"{self.events} events of {len(WRITERS)} writers to {WORKERS} workers, {self.hung} inserts hung: "
            f"{self.pairs} pairs of rule and window in {self.results} results, all as by brute force, {self.at_once} "
            f"of them while the writers wrote; {self.again} evaluated again with the same result"
        )


# --- what is sent


def random_value(chance: random.Random, depth: int = 0) -> Any:
    """A value of JSON. Numbers are multiples of 1/8 and of 33 bits at most, so sums of them are exact."""
    kind = chance.randrange(10 if depth < 3 else 7)
    if kind == 9:
        return random_data(chance, depth + 1)
    if kind > 6:
        return [random_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    number = chance.choice([chance.randrange(-50, 50), chance.randrange(-400, 400) / 8, 2**33])
    return chance.choice([number, number, number, None, True, "text"])


def random_data(chance: random.Random, depth: int = 0) -> Json:
    """An object with some of the names."""
    return {name: random_value(chance, depth) for name in NAMES if chance.random() < 0.6}


def random_type(chance: random.Random) -> str:
    """A type of events. Some are rare."""
    return chance.choices(EVENT_TYPES, [100, 30, 0.2])[0]


def random_batch(chance: random.Random) -> Batch:
    """What a writer sends at once."""
    return chance.choice(SOURCES), [(random_type(chance), random_data(chance)) for _ in range(chance.randrange(1, 20))]


def over_rest(server: Server, secret: str, batches: Iterator[Batch]) -> None:
    """Post batches."""
    with server.client(secret) as client:
        for source, events in batches:
            body = {"source": source, "events": [{"type": each, "data": data} for each, data in events]}
            client.post("/api/v1/events", json=body).raise_for_status()


def in_calls(server: Server, secret: str, batches: Iterator[Batch]) -> None:
    """Send each batch in a call."""
    with channel_to(server.grpc) as channel:
        for source, events in batches:
            ingest(channel, secret, message_of(source, events))


def in_a_stream(server: Server, secret: str, batches: Iterator[Batch]) -> None:
    """Send all batches in one stream."""
    with channel_to(server.grpc) as channel, Stream(channel, secret, STREAM_S) as stream:
        for sequence, (source, events) in enumerate(batches):
            stream.send(sequence, message_of(source, events))
            assert stream.receive().HasField("receipt")


def message_of(source: str, events: list[tuple[str, Json]]) -> pb.EventBatch:
    """A batch for gRPC."""
    return pb.EventBatch(
        source=source, events=[pb.Event(type=each, data_json=json.dumps(data).encode()) for each, data in events]
    )


WRITERS = (over_rest, over_rest, in_calls, in_a_stream)


class Writing:
    """Writers that send until they are told to stop."""

    def __init__(self, server: Server, secret: str, seed: str) -> None:
        self._server = server
        self._secret = secret
        self._seed = seed
        self._ended = threading.Event()
        self._events = [0] * len(WRITERS)

    def __enter__(self) -> Self:
        self._threads = ThreadPoolExecutor(len(WRITERS))
        self._writers = [
            self._threads.submit(write, self._server, self._secret, self._batches(number))
            for number, write in enumerate(WRITERS)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._threads.shutdown()

    def stop(self) -> int:
        """Wait until the writers have stopped. Returns how many events they sent. Raises what a writer raised."""
        self._ended.set()
        for writer in self._writers:
            writer.result()
        return sum(self._events)

    def _batches(self, number: int) -> Iterator[Batch]:
        chance = random.Random(f"{self._seed} writer {number}")
        while not self._ended.wait(PAUSE_S * chance.random()):
            source, events = random_batch(chance)
            yield source, events
            self._events[number] += len(events)


# --- rules


def random_rule(chance: random.Random, number: int) -> Json:
    """A rule, as it is posted. All types come equally often."""
    rule_type = ("threshold", "missing_field", "volume", "freshness", "schema")[number % 5]
    config = {"event_type": random_type(chance) if chance.random() < 0.8 else "rare", **CONFIGS[rule_type](chance)}
    if chance.random() < 0.5:
        config["source"] = chance.choice(SOURCES)
    return {"name": f"{rule_type} {number}", "rule_type": rule_type, "config": config}


def minutes_of(chance: random.Random) -> int:
    """The length of a window."""
    return chance.randint(1, MINUTES)


def threshold(chance: random.Random) -> Json:
    """On a count or a path."""
    operator = chance.choice([">", "<", ">=", "<=", "=="])
    if chance.random() < 0.5:
        limits = {"field": "count", "value": chance.choice([0, 100, 500, 2_000])}
    else:
        aggregate = chance.choice(["avg", "min", "max", "sum"])
        limits = {"field": chance.choice(PATHS), "aggregate": aggregate, "value": chance.choice([-50, 0, 0.5, 2**33])}
    return {**limits, "operator": operator, "window_minutes": minutes_of(chance)}


def missing_field(chance: random.Random) -> Json:
    """On some paths."""
    config: Json = {"required_fields": chance.sample(PATHS, chance.randint(1, 4)), "max_percent": chance.randrange(100)}
    return config if chance.random() < 0.3 else {**config, "window_minutes": minutes_of(chance)}


def volume(chance: random.Random) -> Json:
    """On a change that comes and goes."""
    windows = {"current_window_minutes": minutes_of(chance), "comparison_window_hours": chance.randint(1, 3)}
    return {"threshold_percent": chance.choice([-50, -5, 5, 50, 1_000]), **windows}


def freshness(chance: random.Random) -> Json:
    """On an age that only rare events reach."""
    return {"max_age_minutes": minutes_of(chance)}


def schema(chance: random.Random) -> Json:
    """On some paths, with the types that many values have."""
    types = {path: chance.sample(JSON_TYPES, chance.randint(1, 6)) for path in chance.sample(PATHS, 3)}
    return {"fields": types, "allow_unknown": chance.random() < 0.5, "window_minutes": minutes_of(chance)}


CONFIGS: Mapping[str, Callable[[random.Random], Json]] = {
    "threshold": threshold,
    "missing_field": missing_field,
    "volume": volume,
    "freshness": freshness,
    "schema": schema,
}


# --- what is found


class Comparison:
    """Compares the results of a tenant's rules with the collection."""

    def __init__(self, mongo: MongoClient, client: httpx.Client, tenant_id: str, rules: Sequence[Json]) -> None:
        self._mongo = mongo
        self._client = client
        self._tenant = {"_id.tenant_id": UUID(tenant_id)}
        self._rules = {rule["id"]: rule for rule in rules}
        self.found: dict[Pair, Json] = {}
        """A result of each pair."""
        self.results = 0
        self.again: set[Pair] = set()

    def compare_new(self) -> None:
        """Compare the results that came since the last time, and evaluate them again while that is possible."""
        results = list(self._mongo.sluice.rule_results.find(self._tenant))
        self.results = len(results)
        new: dict[Pair, Json] = {}
        for result in results:
            pair = pair_of(result)
            first = self.found.get(pair) or new.setdefault(pair, result)
            assert outcome_of(result) == outcome_of(first), self._rules[pair.rule_id]
        if new:
            self.found |= new
            self._evaluate_again()
            self._compare(new)

    def compare_all(self) -> None:
        """Compare all results with the collection as it is now."""
        self._compare(self.found)

    def _compare(self, found: Mapping[Pair, Json]) -> None:
        documents = list(self._mongo.sluice.events.find(self._tenant))
        for pair, result in found.items():
            rule = self._rules[pair.rule_id]
            wanted = find(documents, rule["rule_type"], SimpleNamespace(**rule["config"]), pair.start_ms, pair.end_ms)
            assert outcome_of(result) == wanted, f"{rule}, {pair}: {outcome_of(result)} is not {wanted}"

    def _evaluate_again(self) -> None:
        """`evaluate` finds the same in a window that is still the last one."""
        for rule_id in self._rules:
            body = self._client.post(f"{RULES}/{rule_id}/evaluate").raise_for_status().json()
            pair = Pair(rule_id, parse_time(body["window_start"]), parse_time(body["window_end"]))
            if pair in self.found:
                again = Found(body["state"], body["value"], body["sample_size"], body["event_ids"])
                assert again == outcome_of(self.found[pair]), self._rules[rule_id]
                assert body["message"] == self.found[pair]["message"]
                self.again.add(pair)


def pair_of(result: Json) -> Pair:
    """The rule and the window of a result."""
    start_ms, end_ms = (to_milliseconds(result[each]) for each in ("window_start", "window_end"))
    return Pair(str(result["_id"]["rule_id"]), start_ms, end_ms)


def outcome_of(result: Json) -> Found:
    """What a result says."""
    return Found(result["state"], result["value"], result["sample_size"], list(map(str, result["event_ids"])))


# --- the run


def run(directory: Path, seed: str) -> Figures:
    """Write and compare. Fails if a result is wrong."""
    chance = random.Random(seed)
    with Mongod(directory / "db") as mongod, mongod.client() as mongo:
        options = ("--mongodb-url", mongod.url, "--workers", str(WORKERS), "--rules-interval", INTERVAL)
        with Server(directory, *options) as server:
            key = server.create_key("acme", "--rate-limit", "0")
            with server.client(key["key"]) as client:
                bodies = [random_rule(chance, number) for number in range(RULE_COUNT)]
                rules = [client.post(RULES, json=body).raise_for_status().json() for body in bodies]
                know_types(client, mongo)
                comparison = Comparison(mongo, client, key["tenant_id"], rules)
                with Writing(server, key["key"], seed) as writing:
                    hung = write_and_compare(mongo, comparison)
                    at_once = len(comparison.found)
                    sent = writing.stop()
                ended_ms = now_ms()
                wait_until(lambda: is_evaluated(mongo, ended_ms), "the last events to be evaluated", 2 * MINUTE_S)
                comparison.compare_new()
        comparison.compare_all()
        assert mongo.sluice.events.count_documents({}) == sent + len(SOURCES) * len(EVENT_TYPES)
    assert len(comparison.found) >= PAIRS
    return Figures(sent, hung, comparison.results, len(comparison.found), at_once, len(comparison.again))


def know_types(client: httpx.Client, mongo: MongoClient) -> None:
    """Send an event of each type and source, and let them be known since yesterday: what is new has no average."""
    for source in SOURCES:
        events = [{"type": each, "data": {}} for each in EVENT_TYPES]
        client.post("/api/v1/events", json={"source": source, "events": events}).raise_for_status()
    known = {"_id.event_type": {"$in": list(EVENT_TYPES)}}
    count = len(SOURCES) * len(EVENT_TYPES)
    wait_until(lambda: mongo.sluice.event_types.count_documents(known) == count, "all types in the catalog")
    yesterday = from_milliseconds(now_ms() - 24 * 60 * MINUTE_MS)
    mongo.sluice.event_types.update_many(known, {"$set": {"first_seen": yesterday}})


def write_and_compare(mongo: MongoClient, comparison: Comparison) -> int:
    """Compare while writers write, and let an insert hang at the end of each minute. Returns how many did."""
    first_ms = now_ms() - now_ms() % MINUTE_MS + MINUTE_MS
    for minute in range(MINUTES):
        end_ms = first_ms + minute * MINUTE_MS
        sleep_until(end_ms - HANGS_BEFORE_MS)
        block_next_insert(mongo, "events", HANG_MS)()
        sleep_until(end_ms + COMPLETE_AFTER_MS + COMPARED_AFTER_MS)
        comparison.compare_new()
    return MINUTES


def sleep_until(time_ms: int) -> None:
    """Wait for a time."""
    time.sleep(max(0, time_ms - now_ms()) / MS_PER_S)


def is_evaluated(mongo: MongoClient, time_ms: int) -> bool:
    """Whether all rules were evaluated on windows that hold all that was stored before a time."""
    until = from_milliseconds(time_ms + MINUTE_MS)
    return mongo.sluice.rules.count_documents({"evaluated_until": {"$lt": until}}) == 0


def now_ms() -> int:
    """The time, in milliseconds since 1970."""
    return round(time.time() * MS_PER_S)
