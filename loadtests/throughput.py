"""Measures how much Sluice takes from many clients, and checks that all is stored: `python -m loadtests.throughput`.

Users send batches of 1, 10, 100 and 1,000 events over REST, unary calls and streams. Each API and size has its own
turn, in which users send as soon as the response before has come. Then the verify phase reads the database.

The figures are what clients see, and Locust itself takes a part of the machine. `loadtests.benchmark` measures what the
server can do.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import click
import msgspec

from loadtests.support import stats
from loadtests.support.charts import LineChart
from loadtests.support.checks import response_checks
from loadtests.support.command import run_command
from loadtests.support.deployment import Deployment
from loadtests.support.options import Options, shared_options
from loadtests.support.plan import Api, Lane, Plan, Turn
from loadtests.support.processes import Key
from loadtests.support.records import Record
from loadtests.support.run_locust import RESPONSE_TIMEOUT_S, run_locust
from loadtests.support.thresholds import LARGE_BATCH_RATE, SINGLE_EVENT_RATE, Check
from loadtests.support.verdict import Verdict

SIZES = (1, 10, 100, 1_000)

APIS: tuple[Api, ...] = ("rest", "unary", "stream")

USERS = {"rest": 8, "unary": 8, "stream": 4}
"""Users of each API: enough to keep four workers busy. A stream has several batches in flight."""

TURN_S, SHORT_TURN_S = 10.0, 0.5
"""The time of each API and batch size."""

GAP_S, SHORT_GAP_S = 2.0, 0.2
"""The time between turns, in which the last responses arrive."""


def plan_of(deployment: Deployment, key: Key, short: bool) -> Plan:
    """Return the plan: a turn for each batch size and API."""
    turn_s, gap_s = (SHORT_TURN_S, SHORT_GAP_S) if short else (TURN_S, GAP_S)
    lanes = tuple(
        Lane(
            number=number,
            name=f"{api}, {size:,} a batch",
            kind=f"{api}, {size:,} a batch",
            api=api,
            key=key.secret,
            tenant_id=key.tenant_id,
            source=deployment.source(f"{api}-{size}"),
            sizes=(size,),
            users=USERS[api],
            turn=Turn(number * (turn_s + gap_s), turn_s),
        )
        for number, (size, api) in enumerate(product(SIZES, APIS))
    )
    return Plan(url=deployment.url, grpc=deployment.grpc, lanes=lanes, response_timeout_s=RESPONSE_TIMEOUT_S)


def speed_checks(lines: list[stats.Line], lanes: tuple[Lane, ...]) -> list[Check]:
    """Check that the slowest API is not below the lowest rates."""
    rates = {(lane.sizes[0], lane.api): line.events_per_s for lane, line in zip(lanes, lines, strict=True)}
    return [
        Check(threshold, min(rates[size, api] for api in APIS))
        for threshold, size in ((LARGE_BATCH_RATE, max(SIZES)), (SINGLE_EVENT_RATE, min(SIZES)))
    ]


async def test(options: Options, deployment: Deployment, directory: Path) -> Verdict:
    """Run the plan, verify the database and judge the result."""
    (key,) = await deployment.keys(["throughput"])
    plan = plan_of(deployment, key, options.short)
    records = await run_locust(plan, directory / "run", options)
    return judge(records, plan, options, deployment.verify(records, plan.lanes).checks())


def charts_of(lanes: Sequence[Lane], by_lane: Mapping[int, Sequence[Record]], size: int) -> list[LineChart]:
    """Return the charts of one batch size, which compare the APIs. Each curve starts when its API had its turn."""
    by_api = {str(lane.api): since_turn(by_lane[lane.number], lane.turn) for lane in lanes if lane.sizes == (size,)}
    return stats.request_charts(by_api, "events/s", lambda record: record.events, "s since the start of the turn")


def since_turn(records: Sequence[Record], turn: Turn | None) -> list[Record]:
    """Return the records with times since the start of their turn."""
    assert turn is not None
    return [
        msgspec.structs.replace(
            record, due_s=max(0.0, record.due_s - turn.start_s), answered_s=record.answered_s - turn.start_s
        )
        for record in records
    ]


def judge(records: list[Record], plan: Plan, options: Options, verified: list[Check]) -> Verdict:
    """Compute the figures, and check them against the thresholds."""
    by_lane = stats.grouped(records, lambda record: record.lane)
    by_name = {lane.name: by_lane[lane.number] for lane in plan.lanes}
    lines = [stats.line_of(name, of_name) for name, of_name in by_name.items()]
    speed = [] if options.short else speed_checks(lines, plan.lanes)
    return Verdict(
        name="throughput",
        lines=lines,
        checks=[*response_checks(records, ("acknowledged",)), *verified, *speed],
        charts={f"Batches of {size:,}": charts_of(plan.lanes, by_lane, size) for size in SIZES},
        records=records,
        settings={"workers": options.workers, "short": options.short},
    )


@click.command()
@shared_options
def main(options: Options) -> None:
    """Send batches of all sizes over REST and gRPC, as fast as the server takes them, and verify what is stored."""
    run_command(test, options)


if __name__ == "__main__":
    main()
