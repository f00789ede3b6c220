"""How much Sluice takes from many callers, and whether all is stored: `python -m loadtests.throughput` (`--help`).

Users post, call and stream batches of 1, 10, 100 and 1,000 events, each face and size in its turn, as fast as the
answers come. Then the verify phase reads the database: exactly what was acknowledged is stored.

This is what callers see, Locust's own cost included; `loadtests.benchmark` measures what the server can do.
"""

from itertools import product
from pathlib import Path

import click

from loadtests.support import stats
from loadtests.support.charts import line_chart
from loadtests.support.checks import answer_checks
from loadtests.support.command import carry_out
from loadtests.support.options import Options, shared_options
from loadtests.support.plan import Face, Lane, Plan, Turn
from loadtests.support.processes import Key
from loadtests.support.records import Record
from loadtests.support.run_locust import MAX_ANSWER_S, Place, run_locust
from loadtests.support.thresholds import LARGE_BATCH_RATE, SINGLE_EVENT_RATE, Check
from loadtests.support.verdict import Verdict

SIZES = (1, 10, 100, 1_000)

FACES: tuple[Face, ...] = ("rest", "unary", "stream")

USERS = {"rest": 8, "unary": 8, "stream": 4}
"""Enough to keep four workers busy; a stream has a few batches under way."""

TURN_S, SHORT_TURN_S = 10.0, 0.5
"""A face and size has so long."""

GAP_S, SHORT_GAP_S = 2.0, 0.2
"""Between turns: the last answers come in."""


def plan_of(place: Place, key: Key, short: bool) -> Plan:
    """Each face and size in its turn."""
    turn_s, gap_s = (SHORT_TURN_S, SHORT_GAP_S) if short else (TURN_S, GAP_S)
    lanes = tuple(
        Lane(
            number=number,
            name=f"{face}, {size:,} a batch",
            kind=f"{face}, {size:,} a batch",
            face=face,
            key=key.secret,
            tenant_id=key.tenant_id,
            source=place.source(f"{face}-{size}"),
            sizes=(size,),
            users=USERS[face],
            turn=Turn(number * (turn_s + gap_s), turn_s),
        )
        for number, (size, face) in enumerate(product(SIZES, FACES))
    )
    return Plan(url=place.url, grpc=place.grpc, lanes=lanes, max_answer_s=MAX_ANSWER_S)


def speed_checks(lines: list[stats.Line], lanes: tuple[Lane, ...]) -> list[Check]:
    """The floors, for the slowest face."""
    rates = {(lane.sizes[0], lane.face): line.events_per_s for lane, line in zip(lanes, lines, strict=True)}
    return [
        Check(threshold, min(rates[size, face] for face in FACES))
        for threshold, size in ((LARGE_BATCH_RATE, max(SIZES)), (SINGLE_EVENT_RATE, min(SIZES)))
    ]


async def test(options: Options, place: Place, directory: Path) -> Verdict:
    """Run, verify and judge."""
    (key,) = await place.keys(["throughput"])
    plan = plan_of(place, key, options.short)
    records = await run_locust(plan, directory / "run", options)
    return judge(records, plan, options, place.verify(records, plan.lanes).checks())


def judge(records: list[Record], plan: Plan, options: Options, verified: list[Check]) -> Verdict:
    """The figures, and the verdict on them."""
    by_lane = stats.grouped(records, lambda record: record.lane)
    by_name = {lane.name: by_lane[lane.number] for lane in plan.lanes}
    lines = [stats.line_of(name, of_name) for name, of_name in by_name.items()]
    speed = [] if options.short else speed_checks(lines, plan.lanes)
    return Verdict(
        name="throughput",
        lines=lines,
        checks=[*answer_checks(records, ("acknowledged",)), *verified, *speed],
        charts=[
            line_chart("Throughput", "events/s", stats.rates(by_name, lambda r: r.events, lambda r: r.answered_s)),
            line_chart("Latency, p50", "ms", stats.latencies(by_name, 0.50)),
            line_chart("Latency, p99", "ms", stats.latencies(by_name, 0.99)),
        ],
        records=records,
        settings={"workers": options.workers, "short": options.short},
    )


@click.command()
@shared_options
def main(options: Options) -> None:
    """Send batches of all sizes over REST and gRPC, as fast as they are taken, and verify what is stored."""
    carry_out(test, options)


if __name__ == "__main__":
    main()
