"""The fixed layout of a worker's slot in shared memory: which number is in which place.

A slot is an array of integers of 64 bits. The worker adds to them in place, and the supervisor reads them at a scrape.
There is no lock: each number is written and read as a whole. The supervisor reads a slot from its first number to its
last. A worker counts what is received before it counts what became of it, so `received` is last. So a scrape never
finds more events settled than received.

Every worker has its own slot, which is only as old as its process. Counters and histograms of workers that are gone go
on in the sums (`slots.py`).
"""

from collections.abc import Sequence
from itertools import product
from typing import Literal, NamedTuple, get_args

from server.core.errors import Code
from server.core.request import CLIENT_GONE
from server.core.rules.model import RuleState

INTEGER_BYTES = 8

NS_PER_S = 1_000_000_000

APIS = ("rest", "grpc")
CODES = (*Code, CLIENT_GONE)
OUTCOMES = ("stored", "replayed", "unknown")
RESOURCES = ("requests", "events", "bytes", "streams", "followers")

BUCKETS_S = (
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0
)  # fmt: skip
"""Upper bounds of the buckets of all histograms, in seconds: a single event takes 2 ms, and a request has 10 s."""

BOUNDS_NS = tuple(round(bound * NS_PER_S) for bound in BUCKETS_S)

HISTOGRAM_SIZE = len(BUCKETS_S) + 2
"""Numbers of a histogram: its buckets, the bucket of all that is larger, and the sum in nanoseconds."""

Kind = Literal["counter", "gauge", "histogram"]


class Family(NamedTuple):
    """A metric: its name without suffixes, and where the number of each combination of labels is."""

    kind: Kind
    name: str
    help: str
    labels: tuple[str, ...]
    places: dict[tuple[str, ...], int]
    """By values of the labels: the place of a number, or the first of a histogram."""
    scale: float = 1
    """What a number is multiplied by when it is shown."""
    sums: bool = True
    """Whether the numbers of all workers are added up. If not, the least of them counts."""


class Layout:
    """Gives out places, one after the other."""

    def __init__(self) -> None:
        self.size = 0
        self.families: list[Family] = []

    def add(
        self, kind: Kind, name: str, help_text: str, *, scale: float = 1, sums: bool = True, **labels: Sequence[str]
    ) -> Family:
        """A metric with a number, or a histogram, for each combination of the values of its labels."""
        width = HISTOGRAM_SIZE if kind == "histogram" else 1
        combinations = list(product(*labels.values()))
        places = {values: self.size + index * width for index, values in enumerate(combinations)}
        self.size += width * len(combinations)
        self.families.append(Family(kind, name, help_text, tuple(labels), places, scale, sums))
        return self.families[-1]


LAYOUT = Layout()


class Balance(NamedTuple):
    """What was received of something, and what became of it. The difference is in flight."""

    noun: str
    outcomes: dict[str, Family]
    refused: Family
    received: Family

    def in_flight(self, numbers: Sequence[int], api: str) -> int:
        """How much is in flight over an API, by the numbers of a slot or by their sums."""
        settled = sum(numbers[family.places[api,]] for family in self.outcomes.values())
        refused = sum(numbers[place] for (owner, _), place in self.refused.places.items() if owner == api)
        return numbers[self.received.places[api,]] - settled - refused


REQUESTS_HELP = {
    "stored": "Requests whose events were stored",
    "replayed": "Requests that repeated an earlier one of the same idempotency key",
    "unknown": "Requests of which the database did not confirm what it stored, or whose worker was killed",
}
EVENTS_HELP = {
    "stored": "Events that were stored",
    "replayed": "Events of repeated requests that were stored before",
    "unknown": "Events of which the database did not confirm that they are stored, or whose worker was killed",
}
READS_HELP = {"served": "Reads that were answered"}


def _outcomes(noun: str, helps: dict[str, str]) -> dict[str, Family]:
    return {name: LAYOUT.add("counter", f"sluice_{noun}_{name}", text, protocol=APIS) for name, text in helps.items()}


def _refused(noun: str) -> Family:
    text = f"{noun.capitalize()} that were refused, by error code"
    return LAYOUT.add("counter", f"sluice_{noun}_refused", text, protocol=APIS, code=CODES)


def _received(noun: str, help_text: str) -> Family:
    return LAYOUT.add("counter", f"sluice_{noun}_received", help_text, protocol=APIS)


_settled = [
    (noun, _outcomes(noun, helps), _refused(noun))
    for noun, helps in (("requests", REQUESTS_HELP), ("events", EVENTS_HELP), ("reads", READS_HELP))
]


def _histogram(name: str, help_text: str) -> Family:
    return LAYOUT.add("histogram", f"sluice_{name}_seconds", help_text, protocol=APIS)


REQUEST = _histogram("request_duration", "Whole requests whose batch was decoded, from the first line to the receipt")
ADMIT = _histogram("admit_duration", "The check of the key and the permit, of admitted requests")
WAIT = _histogram("wait_duration", "The wait of batches for the insert that they share with others")
INSERT = _histogram("insert_duration", "The insert of batches, on a majority of the database")
LAG = LAYOUT.add("histogram", "sluice_event_loop_lag_seconds", "How late the event loops of workers run a timer")

USED = LAYOUT.add("gauge", "sluice_capacity_used", "What workers hold of each limited resource", resource=RESOURCES)
LIMIT = LAYOUT.add("gauge", "sluice_capacity_limit", "The limits of all workers on it", resource=RESOURCES)
LEASES = LAYOUT.add("gauge", "sluice_rate_limit_leases", "Leases of rate limits that hold permits, of all workers")
PERMITS = LAYOUT.add("gauge", "sluice_rate_limit_leased_permits", "Permits in these leases")
WRITABLE = LAYOUT.add(
    "gauge", "sluice_database_writable", "Whether the database takes writes of every worker", sums=False
)
PRIMARIES = LAYOUT.add(
    "counter", "sluice_database_primary_changes", "Changes of the database's primary, as each worker found them"
)
LATE = LAYOUT.add(
    "counter",
    "sluice_events_completed_late",
    "Events that a retry with an idempotency key stored when rules already counted their minute as complete",
    protocol=APIS,
)
EVALUATIONS = LAYOUT.add(
    "counter",
    "sluice_rule_evaluations",
    "Evaluations of rules, by the state that they found",
    state=get_args(RuleState),
)
LATENESS = LAYOUT.add(
    "histogram", "sluice_rule_lateness_seconds", "How much later than it could have been a rule was evaluated"
)
CPU = LAYOUT.add("counter", "sluice_worker_cpu_seconds", "CPU time of all workers", scale=1 / NS_PER_S)
MEMORY = LAYOUT.add("gauge", "sluice_worker_resident_memory_bytes", "Resident memory of all workers")

REQUESTS, EVENTS, READS = BALANCES = [
    Balance(noun, outcomes, refused, _received(noun, help_text))
    for (noun, outcomes, refused), help_text in zip(
        _settled,
        (
            "Requests with a batch that arrived, and others that were refused before any code handled them",
            "Events that arrived, counted once their batch is decoded",
            "Reads that arrived",
        ),
        strict=True,
    )
]
