"""Sends a mix of requests as in production, below capacity: `python -m loadtests.mixed` (`--help`).

Many tenants send small POSTs, unary calls and streams, each at its own rate. Among them are bad input, an unknown key,
slow clients, clients that repeat an acknowledged batch as if its response had been lost, and a tenant that sends twice
its rate limit. Requests are due at fixed times and do not wait for responses. Then the verify phase checks that each
tenant has its own events, once, and none of another tenant.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import click

from loadtests.support import stats
from loadtests.support.charts import LineChart
from loadtests.support.checks import response_checks
from loadtests.support.command import run_command
from loadtests.support.deployment import Deployment
from loadtests.support.memory import Curves, memory_checks, memory_curves
from loadtests.support.options import Options, shared_options
from loadtests.support.plan import Arrivals, Lane, Plan
from loadtests.support.processes import Key
from loadtests.support.records import Record
from loadtests.support.run_locust import RESPONSE_TIMEOUT_S, run_locust
from loadtests.support.thresholds import MIXED_P99, UNCLEAR_BAD_INPUT, Check
from loadtests.support.verdict import Verdict

TENANTS, SHORT_TENANTS = 8, 2

SHORT_SECONDS = 3.0

RATE_LIMIT = 120
"""Requests a minute of the one tenant that has a limit."""

LIMITED_RATE = 4.0
"""Requests a second of that tenant: twice its limit."""

UNKNOWN_KEY = "slc_" + "A" * 43
"""A text in the form of a key that no server knows."""

SLOW_S = 2.0
"""The time over which a slow client sends its body."""

SPREAD = 0.618
"""Lane n starts at the fraction of n x 0.618 of the time between two of its requests, so that lanes are not in step."""

USERS = 4
"""Users of each lane. One is free when the next request is due, if responses take less than about a second."""

TRAFFIC: tuple[dict[str, Any], ...] = (
    {"kind": "rest", "api": "rest", "sizes": (1, 3, 20), "rate": 6.0},
    {"kind": "unary", "api": "unary", "sizes": (1, 10, 50), "rate": 3.0},
    {"kind": "stream", "api": "stream", "sizes": (100, 500), "rate": 1.0},
    {"kind": "repeated, rest", "api": "rest", "sizes": (10,), "rate": 0.5, "repeated": True, "attempts": 3},
    {"kind": "repeated, unary", "api": "unary", "sizes": (10,), "rate": 0.5, "repeated": True, "attempts": 3},
    {"kind": "slow client", "api": "rest", "sizes": (100,), "rate": 0.5, "slow_s": SLOW_S},
    {"kind": "bad event, rest", "api": "rest", "sizes": (2, 100), "rate": 0.5, "flaw": "event"},
    {"kind": "bad event, unary", "api": "unary", "sizes": (2, 100), "rate": 0.5, "flaw": "event"},
    {"kind": "bad event, stream", "api": "stream", "sizes": (2, 100), "rate": 0.5, "flaw": "event"},
    {"kind": "bad JSON", "api": "rest", "sizes": (1, 10), "rate": 0.5, "flaw": "json"},
    {"kind": "unknown key", "api": "rest", "sizes": (1,), "rate": 0.5, "flaw": "key"},
)
"""What each tenant sends: mostly small batches, and streams of larger ones. About one request in six is bad."""

LIMITED: dict[str, Any] = {"kind": "over its limit", "api": "rest", "sizes": (1,), "rate": LIMITED_RATE}
"""What the tenant with the limit sends."""

SUBJECTS = {
    "Good requests": ("rest", "unary", "stream"),
    "Repeated requests": ("repeated, rest", "repeated, unary"),
    "Bad requests": ("bad event, rest", "bad event, unary", "bad event, stream", "bad JSON", "unknown key"),
}
"""The kinds of requests whose charts show latencies, because they depend on the server only."""


def plan_of(deployment: Deployment, keys: Sequence[Key], limited: Key, seconds: float) -> Plan:
    """Return the plan: the traffic of all tenants at the same time, for `seconds`."""
    numbers = count()
    lanes = [
        lane for index, key in enumerate(keys) for lane in lanes_of(deployment, index, key, TRAFFIC, seconds, numbers)
    ]
    lanes += lanes_of(deployment, len(keys), limited, (LIMITED,), seconds, numbers)
    return Plan(url=deployment.url, grpc=deployment.grpc, lanes=tuple(lanes), response_timeout_s=RESPONSE_TIMEOUT_S)


def lanes_of(
    deployment: Deployment,
    tenant: int,
    key: Key,
    traffic: Sequence[dict[str, Any]],
    seconds: float,
    numbers: Iterator[int],
) -> list[Lane]:
    """Return the lanes of one tenant, one for each kind of traffic."""
    return [
        Lane(
            number=(number := next(numbers)),
            name=f"tenant {tenant}, {kind['kind']}",
            key=UNKNOWN_KEY if kind.get("flaw") == "key" else key.secret,
            tenant_id=key.tenant_id,
            source=deployment.source(f"{tenant}-{kind['kind']}"),
            users=USERS,
            arrivals=(
                Arrivals(number * SPREAD % 1 / kind["rate"], max(1, round(kind["rate"] * seconds)), kind["rate"]),
            ),
            **{name: value for name, value in kind.items() if name != "rate"},
        )
        for kind in traffic
    ]


async def test(minutes: float, options: Options, deployment: Deployment, directory: Path) -> Verdict:
    """Run the plan, verify the database and judge the result."""
    tenants, seconds = (SHORT_TENANTS, SHORT_SECONDS) if options.short else (TENANTS, minutes * 60)
    keys = await deployment.keys([f"mixed-{number}" for number in range(tenants)])
    (limited,) = await deployment.keys(["mixed-limited"], RATE_LIMIT)
    plan = plan_of(deployment, keys, limited, seconds)
    async with memory_curves(deployment.worker_pids) as memory:
        records = await run_locust(plan, directory / "run", options)
    return judge(records, plan.lanes, options, tenants, memory, deployment.verify(records, plan.lanes).checks())


def judge(
    records: Sequence[Record],
    lanes: Sequence[Lane],
    options: Options,
    tenants: int,
    memory: Curves,
    verified: Sequence[Check],
) -> Verdict:
    """Compute the figures of each kind of request, and check them against the thresholds."""
    by_number = {lane.number: lane for lane in lanes}
    by_kind = stats.grouped(records, lambda record: by_number[record.lane].kind)
    lines = [stats.line_of(kind, by_kind[kind]) for kind in dict.fromkeys(lane.kind for lane in lanes)]
    speed = [] if options.short else [latency_check(lines, lanes)]
    slowed = {kind: by_kind[kind] for kind in ("slow client", LIMITED["kind"])}
    return Verdict(
        name="mixed",
        lines=lines,
        checks=[*mixed_checks(records, lanes), *verified, *memory_checks(memory), *speed],
        charts={
            **{heading: charts_of(by_kind, kinds) for heading, kinds in SUBJECTS.items()},
            "Slow clients, and one above its limit": [
                LineChart(
                    title="Throughput",
                    unit="requests/s",
                    series=stats.rates(slowed, lambda _: 1, lambda record: record.answered_s),
                )
            ],
            "Workers": [LineChart(title="Resident memory", unit="MiB", series=memory)],
        },
        records=records,
        settings={"workers": options.workers, "tenants": tenants + 1, "short": options.short},
    )


def charts_of(by_kind: Mapping[str, Sequence[Record]], kinds: Sequence[str]) -> list[LineChart]:
    """Return the charts of some kinds of requests."""
    return stats.request_charts({kind: by_kind[kind] for kind in kinds}, "requests/s", lambda _: 1)


def mixed_checks(records: Sequence[Record], lanes: Sequence[Lane]) -> list[Check]:
    """Check that good requests are acknowledged or limited with a wait, and that bad ones are rejected."""
    flaws = {lane.number: lane.flaw for lane in lanes}
    good = [record for record in records if flaws[record.lane] == "none"]
    bad = [record for record in records if flaws[record.lane] != "none"]
    return [
        *response_checks(good, ("acknowledged", "limited")),
        Check(UNCLEAR_BAD_INPUT, sum(record.outcome != "rejected" for record in bad)),
    ]


def prompt_kinds(lanes: Sequence[Lane]) -> set[str]:
    """Return the kinds whose latency depends on the server only: not on a slow client, nor on a rate limit."""
    return {lane.kind for lane in lanes if not lane.slow_s and lane.kind != LIMITED["kind"]}


def latency_check(lines: Sequence[stats.Line], lanes: Sequence[Lane]) -> Check:
    """Check the p99 latency of the slowest kind of good requests."""
    good = prompt_kinds(lanes) & {lane.kind for lane in lanes if lane.flaw == "none"}
    return Check(MIXED_P99, max(line.p99_ms for line in lines if line.name in good))


@click.command()
@shared_options
@click.option("--minutes", type=click.FloatRange(0.5), default=1.0, show_default=True, help="How long to send.")
def main(options: Options, minutes: float) -> None:
    """Send good and bad requests of many tenants at once, as in production, and verify what each tenant has."""
    run_command(partial(test, minutes), options)


if __name__ == "__main__":
    main()
