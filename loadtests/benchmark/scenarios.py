"""What a scenario of the benchmark is, and how much load it gets.

Scenarios take turns, and each makes one line of the table. A question is a figure of one scenario, or its ratio to the
same figure of another. A question may have an aim, which is printed beside the figure and decides nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from loadtests.benchmark.jobs import Driven

HIGH_LIMIT = 10_000_000
"""Requests a minute: a rate limit that is counted but never reached."""

UNLIMITED = 0

BATCH_SIZES = (1_000, 100, 10, 1)


class Load(NamedTuple):
    """The load of a scenario: generator processes, connections of each, requests in flight on each connection."""

    processes: int
    connections: int
    window: int = 1


ALONE = Load(1, 1)
"""One client that waits for each response, which shows what an idle server takes."""

REST_LOADS = {1: Load(2, 32), 10: Load(2, 16), 100: Load(2, 8), 1_000: Load(2, 4)}
"""By batch size. The larger the batch, the fewer connections keep the server busy."""

GRPC_LOADS = {
    1: Load(4, 4, window=16),
    10: Load(4, 2, window=4),
    100: Load(4, 2, window=2),
    1_000: Load(2, 4, window=2),
}
"""By batch size. Single events: as many in flight as the server accepts on a stream. 10 and 100 a batch: as many as
over REST. 1,000 a batch: twice as many, because one request at a time on a stream is slow."""


class Checkout(NamedTuple):
    """A checkout of Sluice whose server is measured. `label` is part of the name of its database."""

    label: str
    directory: Path


class Scenario(NamedTuple):
    """One line of the table: what is driven, and how. `workers` is 0 if there is no server."""

    name: str
    driven: Driven
    batch_size: int
    load: Load
    workers: int = 0
    keys: int = 1
    rate_limit: int = HIGH_LIMIT
    driver: str = ""
    """The server's MongoDB driver; empty: the one of the command line."""
    checkout: Checkout | None = None
    """The checkout whose server is run; None: this one."""
    half_of: str = ""
    """The scenario at half of whose last rate requests are due. Empty: each is sent when the one before is answered."""
    ceiling: str = ""
    plain: str = ""
    """The two scenarios without a server that it is compared with in the table; empty: none."""


class Question(NamedTuple):
    """A measure of the scenario `of`, or its ratio to that of the scenario `to`."""

    what: str
    measure: Literal["events_per_s", "p50_ms", "p99_ms", "workers_cpu_us_per_event"]
    of: str
    to: str = ""
    aim: str = ""


class Comparison(NamedTuple):
    """Scenarios that take turns, and questions about them."""

    scenarios: Sequence[Scenario]
    questions: Sequence[Question]
