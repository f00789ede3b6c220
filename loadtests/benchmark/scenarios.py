"""What the benchmark compares: sets of scenarios, and the questions that each set answers. Imports the job only.

A scenario is what takes turns and makes a line of the table. A question is a figure of one scenario, or its ratio to
that of another; its aim, where there is one, is printed beside it and decides nothing.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from loadtests.benchmark.jobs import Driven

HIGH_LIMIT = 10_000_000
"""Requests a minute: a rate limit that is at work and never reached."""

UNLIMITED = 0

BATCH_SIZES = (1_000, 100, 10, 1)

MANY_KEYS = 300
"""As many customers at once: each has a window of its own, which no other's request pays for."""


class Load(NamedTuple):
    """Who drives a scenario: generator processes, connections of each, requests under way on each of those."""

    processes: int
    connections: int
    window: int = 1


CEILING_LOAD = Load(2, 4)
"""Two processes, because one interpreter could be what is measured; more threads gain nothing."""

CLIENTS = Load(4, 1)
"""Clients that insert by themselves, one call under way in each."""

ALONE = Load(1, 1)
"""One client that waits for each answer: what an idle server takes."""

REST_LOADS = {1: Load(2, 32), 10: Load(2, 16), 100: Load(2, 8), 1_000: Load(2, 4)}
"""By batch size. The larger the batch, the fewer have to wait for a server to be busy."""

GRPC_LOADS = {
    1: Load(4, 4, window=16),
    10: Load(4, 2, window=4),
    100: Load(4, 2, window=2),
    1_000: Load(2, 4, window=2),
}
"""By batch size: single events are pushed, as many as the server takes of a stream; else there are as many requests
under way as over REST, but twice as many where one at a time on a stream is slow."""

GRPC_MANY_KEYS = Load(4, MANY_KEYS // 4)
"""A stream has one key, so there is a stream for each key, with one event under way."""

FACES: dict[Literal["rest", "grpc"], tuple[str, dict[int, Load]]] = {
    "rest": ("REST", REST_LOADS),
    "grpc": ("gRPC stream", GRPC_LOADS),
}


class Scenario(NamedTuple):
    """One line of the table: what is driven, and how. `workers` is 0 where there is no server."""

    name: str
    driven: Driven
    batch_size: int
    load: Load
    workers: int = 0
    keys: int = 1
    rate_limit: int = HIGH_LIMIT
    indexed: bool = True
    driver: str = ""
    """The server's driver; none: the one that the command line says."""
    half_of: str = ""
    """The scenario at half of whose rate requests fall due, ready or not; none: each as the one before is answered."""


class Question(NamedTuple):
    """A measure of the scenario `of`, or its ratio to that of the scenario `to`."""

    what: str
    measure: Literal["events_per_s", "p50_ms", "p99_ms"]
    of: str
    to: str = ""
    aim: str = ""


class Comparison(NamedTuple):
    """A set of scenarios. Where there is a ceiling, it is the first."""

    scenarios: Sequence[Scenario]
    questions: Sequence[Question]
    has_ceiling: bool = False


CEILING = Scenario("ceiling: insert_many of BSON, 1,000 a call", "insert_many", 1_000, CEILING_LOAD)
BARE = Scenario("ceiling with no index but _id", "insert_many", 1_000, CEILING_LOAD, indexed=False)
DIRECT = Scenario("insert_one by 4 clients, no server", "insert_one", 1, CLIENTS)
DIRECT_ALONE = Scenario("insert_one by 1 client, no server", "insert_one", 1, ALONE)


def faces(workers: Sequence[int], sizes: Sequence[int]) -> Comparison:
    """Both faces of the server, at every batch size, next to the ceiling and to clients without a server."""
    served = [
        Scenario(f"{name}, {batches_of(size)}, {count_of(count)}", driven, size, loads[size], count)
        for size in sizes
        for driven, (name, loads) in FACES.items()
        for count in workers
    ]
    singles = [scenario.name for scenario in served if scenario.batch_size == 1]
    return Comparison(
        [CEILING, BARE, DIRECT, *served],
        [
            Question("ceiling: with indexes / without", "events_per_s", CEILING.name, BARE.name, "at least 0.75"),
            *(Question(f"{name} / insert_one by 4 clients", "events_per_s", name, DIRECT.name) for name in singles),
        ],
        has_ceiling=True,
    )


def limiter(workers: Sequence[int], _sizes: Sequence[int]) -> Comparison:
    """What the rate limit costs: keys with a limit that is never reached, next to keys without one."""
    count, many = max(workers), f"{batches_of(1)}, {MANY_KEYS} keys"
    limited = [
        Scenario(f"REST, {batches_of(1_000)}, one key", "rest", 1_000, REST_LOADS[1_000], count),
        Scenario(f"gRPC stream, {batches_of(1_000)}, one key", "grpc", 1_000, GRPC_LOADS[1_000], count),
        Scenario(f"REST, {many}", "rest", 1, REST_LOADS[1], count, MANY_KEYS),
        Scenario(f"gRPC stream, {many}", "grpc", 1, GRPC_MANY_KEYS, count, MANY_KEYS),
    ]
    unlimited = [one._replace(name=f"{one.name}, no limit", rate_limit=UNLIMITED) for one in limited]
    return Comparison(
        [scenario for pair in zip(unlimited, limited, strict=True) for scenario in pair],
        [
            Question(f"{one.name}: with a limit / without", "events_per_s", one.name, other.name)
            for one, other in zip(limited, unlimited, strict=True)
        ],
    )


def latency(workers: Sequence[int], _sizes: Sequence[int]) -> Comparison:
    """How long a single event takes: on an idle server, and on one that is half busy."""
    count = max(workers)
    full = Scenario(f"REST, {batches_of(1)}, {count_of(count)}", "rest", 1, REST_LOADS[1], count)
    half = full._replace(name=f"{full.name}, at half of that rate", half_of=full.name)
    idle = [
        Scenario(f"{name}, one event at a time, {count_of(count)}", driven, 1, ALONE, count)
        for driven, (name, _) in FACES.items()
    ]
    return Comparison(
        [full, half, DIRECT_ALONE, *idle],
        [
            Question("p99 at half of the rate, ms", "p99_ms", half.name, aim="under 15"),
            *(
                Question(f"{one.name} / insert_one, p50", "p50_ms", one.name, DIRECT_ALONE.name, "at most 2")
                for one in idle
            ),
        ],
    )


def drivers(workers: Sequence[int], _sizes: Sequence[int]) -> Comparison:
    """The two MongoDB drivers, at single events: the more calls, the more a driver weighs."""
    count = max(workers)
    motor = Scenario(f"REST, {batches_of(1)}, Motor", "rest", 1, REST_LOADS[1], count, driver="motor")
    pymongo = motor._replace(name=f"REST, {batches_of(1)}, PyMongo", driver="pymongo")
    return Comparison([motor, pymongo], [Question("PyMongo / Motor", "events_per_s", pymongo.name, motor.name)])


COMPARISONS: dict[str, Callable[[Sequence[int], Sequence[int]], Comparison]] = {
    "faces": faces,
    "limiter": limiter,
    "latency": latency,
    "drivers": drivers,
}
"""By the name that `--compare` takes: what is compared, given worker counts and batch sizes."""


def batches_of(size: int) -> str:
    """A batch size in words."""
    return "single events" if size == 1 else f"batches of {size:,}"


def count_of(workers: int) -> str:
    """A number of workers in words."""
    return f"{workers} worker{'s' * (workers > 1)}"
