"""The comparisons that `--compare` offers: which scenarios take turns in one run, and the questions about them.

Only scenarios of one run are compared, because the speed of a machine changes from hour to hour.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from loadtests.benchmark.jobs import Driven
from loadtests.benchmark.scenarios import (
    ALONE,
    GRPC_LOADS,
    REST_LOADS,
    UNLIMITED,
    Checkout,
    Comparison,
    Load,
    Question,
    Scenario,
)

MANY_KEYS = 300
"""Customers that send at the same time. Each key has its own window, so their requests share no lease."""

GRPC_MANY_KEYS = Load(4, MANY_KEYS // 4)
"""A stream has one key, so there is a stream for each key, with one event in flight."""

APIS: dict[Literal["rest", "grpc"], tuple[str, dict[int, Load]]] = {
    "rest": ("REST", REST_LOADS),
    "grpc": ("gRPC stream", GRPC_LOADS),
}

AIMS: dict[Driven, tuple[str, str]] = {
    "rest": ("at least 0.8", "at least 1.05"),
    "grpc": ("at least 0.85", "at least 1.1"),
}
"""By API, at batches of 1,000: the ratio to the ceiling, and that to plain MongoDB."""

CEILING = Scenario("ceiling, batches of 1,000", "insert_command", 1_000, REST_LOADS[1_000])
DIRECT_ALONE = Scenario("insert_one by 1 client, no server", "insert_one", 1, ALONE)

THIS_CHECKOUT = Path(__file__).parents[2]


class Choices(NamedTuple):
    """The options that decide what is compared."""

    workers: Sequence[int]
    batch_sizes: Sequence[int]
    against: Path | None


def apis(choices: Choices) -> Comparison:
    """Compare both APIs at every batch size with the ceiling and with plain MongoDB."""
    plain = {size: plain_mongodb(size) for size in choices.batch_sizes}
    served = [
        Scenario(
            f"{name}, {batches_of(size)}, {count_of(count)}",
            driven,
            size,
            loads[size],
            count,
            ceiling=CEILING.name,
            plain=plain[size].name,
        )
        for size in choices.batch_sizes
        for driven, (name, loads) in APIS.items()
        for count in choices.workers
    ]
    return Comparison(
        [CEILING, *plain.values(), *served],
        [
            Question(f"{one.name} / {baseline}", "events_per_s", one.name, baseline, aim)
            for one in served
            if one.batch_size == CEILING.batch_size
            for baseline, aim in zip((one.ceiling, one.plain), AIMS[one.driven], strict=True)
        ],
    )


def plain_mongodb(size: int) -> Scenario:
    """Return the scenario of plain MongoDB at a batch size, with as many calls in flight as over REST."""
    method: Driven = "insert_one" if size == 1 else "insert_many"
    return Scenario(f"plain MongoDB, {batches_of(size)}", method, size, REST_LOADS[size], ceiling=CEILING.name)


def limiter(choices: Choices) -> Comparison:
    """Compare keys with a limit that is never reached with keys without one: the cost of the rate limit."""
    count, many = max(choices.workers), f"{batches_of(1)}, {MANY_KEYS} keys"
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


def latency(choices: Choices) -> Comparison:
    """Measure how long a single event takes on an idle server, and on one at half of its highest rate."""
    count = max(choices.workers)
    full = Scenario(f"REST, {batches_of(1)}, {count_of(count)}", "rest", 1, REST_LOADS[1], count)
    half = full._replace(name=f"{full.name}, at half of that rate", half_of=full.name)
    idle = [
        Scenario(f"{name}, one event at a time, {count_of(count)}", driven, 1, ALONE, count)
        for driven, (name, _) in APIS.items()
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


def drivers(choices: Choices) -> Comparison:
    """Compare the two MongoDB drivers at single events, where most calls of a driver are made."""
    count = max(choices.workers)
    motor = Scenario(f"REST, {batches_of(1)}, Motor", "rest", 1, REST_LOADS[1], count, driver="motor")
    pymongo = motor._replace(name=f"REST, {batches_of(1)}, PyMongo", driver="pymongo")
    return Comparison([motor, pymongo], [Question("PyMongo / Motor", "events_per_s", pymongo.name, motor.name)])


def checkout(choices: Choices) -> Comparison:
    """Compare the server of this checkout (new) with that of another one (old).

    Batches of 1,000 use the most workers of `--workers`, single events the fewest.
    """
    assert choices.against is not None
    scenarios, questions = list[Scenario](), list[Question]()
    for size, count in ((1_000, max(choices.workers)), (1, min(choices.workers))):
        for driven, (api, loads) in APIS.items():
            name = f"{api}, {batches_of(size)}, {count_of(count)}"
            new, old = (
                Scenario(f"{name}, {one.label}", driven, size, loads[size], count, checkout=one)
                for one in (Checkout("new", THIS_CHECKOUT), Checkout("old", choices.against))
            )
            scenarios += (new, old)
            questions += (
                Question(f"{name}: events/s, new / old", "events_per_s", new.name, old.name, "at least 0.97"),
                Question(
                    f"{name}: CPU of workers per event, new / old",
                    "workers_cpu_us_per_event",
                    new.name,
                    old.name,
                    "at most 1.03",
                ),
            )
    return Comparison(scenarios, questions)


COMPARISONS: dict[str, Callable[[Choices], Comparison]] = {
    "apis": apis,
    "limiter": limiter,
    "latency": latency,
    "drivers": drivers,
    "checkout": checkout,
}
"""The comparisons by the name that `--compare` takes."""


def batches_of(size: int) -> str:
    """Describe a batch size in words."""
    return "single events" if size == 1 else f"batches of {size:,}"


def count_of(workers: int) -> str:
    """Describe a number of workers in words."""
    return f"{workers} worker{'s' * (workers > 1)}"
