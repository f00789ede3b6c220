"""Sluice as production uses it: `python -m loadtests.mixed` (`--help`).

Many tenants at once, each with small posts, unary calls and streams at rates of their own; and among them bad input, an
unknown key, slow clients, callers who send again what was already taken because its answer got lost, and a tenant who
sends twice as much as its rate limit allows. Arrivals do not wait for answers. Then the verify phase reads the
database, tenant by tenant: each has its own events, once, and nothing of another's.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import click

from loadtests.support import stats
from loadtests.support.charts import line_chart
from loadtests.support.checks import answer_checks
from loadtests.support.command import carry_out
from loadtests.support.memory import Curves, memory_checks, watched
from loadtests.support.options import Options, shared_options
from loadtests.support.plan import Arrivals, Lane, Plan
from loadtests.support.processes import Key
from loadtests.support.records import Record
from loadtests.support.run_locust import MAX_ANSWER_S, Place, run_locust
from loadtests.support.thresholds import MIXED_P99, UNCLEAR_BAD_INPUT, Check
from loadtests.support.verdict import Verdict

TENANTS, SHORT_TENANTS = 8, 2

SHORT_SECONDS = 3.0

RATE_LIMIT = 120
"""Of the tenant who has one, a minute."""

LIMITED_RATE = 4.0
"""What that tenant sends a second: twice as much."""

UNKNOWN_KEY = "slc_" + "A" * 43
"""Has the form of a key, and is none."""

SLOW_S = 2.0
"""A slow client's body takes so long."""

SPREAD = 0.618
"""Spreads the lanes' first arrivals over the time between two: callers do not act in step."""

USERS = 4
"""Of each lane: callers are free when the next request is due, as long as answers take less than a second or two."""

TRAFFIC: tuple[dict[str, Any], ...] = (
    {"kind": "rest", "face": "rest", "sizes": (1, 3, 20), "rate": 6.0},
    {"kind": "unary", "face": "unary", "sizes": (1, 10, 50), "rate": 3.0},
    {"kind": "stream", "face": "stream", "sizes": (100, 500), "rate": 1.0},
    {"kind": "repeated, rest", "face": "rest", "sizes": (10,), "rate": 0.5, "repeated": True, "attempts": 3},
    {"kind": "repeated, unary", "face": "unary", "sizes": (10,), "rate": 0.5, "repeated": True, "attempts": 3},
    {"kind": "slow client", "face": "rest", "sizes": (100,), "rate": 0.5, "slow_s": SLOW_S},
    {"kind": "bad event, rest", "face": "rest", "sizes": (2, 100), "rate": 0.5, "flaw": "event"},
    {"kind": "bad event, unary", "face": "unary", "sizes": (2, 100), "rate": 0.5, "flaw": "event"},
    {"kind": "bad event, stream", "face": "stream", "sizes": (2, 100), "rate": 0.5, "flaw": "event"},
    {"kind": "bad JSON", "face": "rest", "sizes": (1, 10), "rate": 0.5, "flaw": "json"},
    {"kind": "unknown key", "face": "rest", "sizes": (1,), "rate": 0.5, "flaw": "key"},
)
"""What each tenant sends: mostly small batches, streams of larger ones, and one request in six is bad."""

LIMITED: dict[str, Any] = {"kind": "over its limit", "face": "rest", "sizes": (1,), "rate": LIMITED_RATE}
"""What the tenant with the limit sends."""


def plan_of(place: Place, keys: Sequence[Key], limited: Key, seconds: float) -> Plan:
    """All tenants' traffic, side by side."""
    numbers = count()
    lanes = [lane for index, key in enumerate(keys) for lane in lanes_of(place, index, key, TRAFFIC, seconds, numbers)]
    lanes += lanes_of(place, len(keys), limited, (LIMITED,), seconds, numbers)
    return Plan(url=place.url, grpc=place.grpc, lanes=tuple(lanes), max_answer_s=MAX_ANSWER_S)


def lanes_of(
    place: Place, tenant: int, key: Key, traffic: Sequence[dict[str, Any]], seconds: float, numbers: Iterator[int]
) -> list[Lane]:
    """The traffic of one tenant."""
    return [
        Lane(
            number=(number := next(numbers)),
            name=f"tenant {tenant}, {kind['kind']}",
            key=UNKNOWN_KEY if kind.get("flaw") == "key" else key.secret,
            tenant_id=key.tenant_id,
            source=place.source(f"{tenant}-{kind['kind']}"),
            users=USERS,
            arrivals=(
                Arrivals(number * SPREAD % 1 / kind["rate"], max(1, round(kind["rate"] * seconds)), kind["rate"]),
            ),
            **{name: value for name, value in kind.items() if name != "rate"},
        )
        for kind in traffic
    ]


async def test(minutes: float, options: Options, place: Place, directory: Path) -> Verdict:
    """Run, verify and judge."""
    tenants, seconds = (SHORT_TENANTS, SHORT_SECONDS) if options.short else (TENANTS, minutes * 60)
    keys = await place.keys([f"mixed-{number}" for number in range(tenants)])
    (limited,) = await place.keys(["mixed-limited"], RATE_LIMIT)
    plan = plan_of(place, keys, limited, seconds)
    async with watched(place.worker_pids) as memory:
        records = await run_locust(plan, directory / "run", options)
    return judge(records, plan.lanes, options, tenants, memory, place.verify(records, plan.lanes).checks())


def judge(
    records: Sequence[Record],
    lanes: Sequence[Lane],
    options: Options,
    tenants: int,
    memory: Curves,
    verified: Sequence[Check],
) -> Verdict:
    """The figures by kind, and the verdict on them."""
    by_number = {lane.number: lane for lane in lanes}
    by_kind = stats.grouped(records, lambda record: by_number[record.lane].kind)
    lines = [stats.line_of(kind, by_kind[kind]) for kind in dict.fromkeys(lane.kind for lane in lanes)]
    speed = [] if options.short else [latency_check(lines, lanes)]
    prompt = {kind: by_kind[kind] for kind in sorted(prompt_kinds(lanes))}
    return Verdict(
        name="mixed",
        lines=lines,
        checks=[*mixed_checks(records, lanes), *verified, *memory_checks(memory), *speed],
        charts=[
            line_chart("Requests answered", "requests/s", stats.rates(by_kind, lambda _: 1, lambda r: r.answered_s)),
            line_chart("Latency, p50", "ms", stats.latencies(prompt, 0.50)),
            line_chart("Latency, p99", "ms", stats.latencies(prompt, 0.99)),
            line_chart("Memory", "MiB", memory),
        ],
        records=records,
        settings={"workers": options.workers, "tenants": tenants + 1, "short": options.short},
    )


def mixed_checks(records: Sequence[Record], lanes: Sequence[Lane]) -> list[Check]:
    """Good requests are taken, bad ones refused as such, and who runs into the limit learns how long to wait."""
    flaws = {lane.number: lane.flaw for lane in lanes}
    good = [record for record in records if flaws[record.lane] == "none"]
    bad = [record for record in records if flaws[record.lane] != "none"]
    return [
        *answer_checks(good, ("acknowledged", "limited")),
        Check(UNCLEAR_BAD_INPUT, sum(record.outcome != "refused" for record in bad)),
    ]


def prompt_kinds(lanes: Sequence[Lane]) -> set[str]:
    """The kinds of which a latency says something of the server: not of a caller's own slowness, or of a limit."""
    return {lane.kind for lane in lanes if not lane.slow_s and lane.kind != LIMITED["kind"]}


def latency_check(lines: Sequence[stats.Line], lanes: Sequence[Lane]) -> Check:
    """The p99 latency of the slowest kind of good requests."""
    good = prompt_kinds(lanes) & {lane.kind for lane in lanes if lane.flaw == "none"}
    return Check(MIXED_P99, max(line.p99_ms for line in lines if line.name in good))


@click.command()
@shared_options
@click.option("--minutes", type=click.FloatRange(0.5), default=1.0, show_default=True, help="How long it lasts.")
def main(options: Options, minutes: float) -> None:
    """Send what production sends, good and bad, of many tenants at once, and verify what each of them has."""
    carry_out(partial(test, minutes), options)


if __name__ == "__main__":
    main()
