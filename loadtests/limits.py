"""Checks that a key's rate limit is exact over protocols and workers: `python -m loadtests.limits` (`--help`).

Users of REST, unary calls and streams share one key. In the burst they send three times the limit at once. In the
steady part they send twice the limit for three minutes. Then a lone client sends until it is rejected, waits as the
response says, and sends once more.

A client cannot see when the server admitted its request. It only knows that this was between sending and response. So
the two counts below fail only if the server is certainly wrong:

1. "The most admitted in any 60 s" counts requests that were sent after the start of the period and answered before its
   end. They were certainly admitted in it.
2. "Rejections while less than 0.95 of the limit was admitted" counts all requests that may have been admitted in the
   62 s before the rejection: those answered after the start of this period and sent before the rejection was received.

Example: a request is sent at 0.9 s and answered at 1.1 s, so it may have been admitted before or after 1.0 s. The first
count leaves it out of the period from 1.0 s to 61.0 s. A rejected request is sent at 63.0 s, and its 62 s begin at
1.0 s. There the second count includes it.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click

from loadtests.support import stats
from loadtests.support.charts import LineChart
from loadtests.support.checks import response_checks
from loadtests.support.command import run_command
from loadtests.support.deployment import Deployment
from loadtests.support.options import Options, shared_options
from loadtests.support.plan import Api, Arrivals, Lane, Plan
from loadtests.support.processes import Key
from loadtests.support.records import Record
from loadtests.support.run_locust import RESPONSE_TIMEOUT_S, run_locust
from loadtests.support.thresholds import (
    BURST_ADMITTED,
    BURST_S,
    EARLY_REJECTIONS,
    LONE_ADMITTED,
    LONE_REJECTED,
    MISSING_LIMIT_HEADERS,
    MOST_ADMITTED,
    SLACK_WINDOW_S,
    USED_SHARE,
    WINDOW_S,
    Check,
)
from loadtests.support.verdict import Verdict

LIMIT, SHORT_LIMIT = 1_000, 20
"""Requests a minute: the default of a key, and a limit that fits into a test of about a minute."""

APIS: tuple[Api, ...] = ("rest", "unary", "stream")

USERS = {"rest": 10, "unary": 10, "stream": 4}
"""Users of each API: enough connections to reach all workers."""

STEADY_START_S, STEADY_S = 20.0, 180.0
"""Start of the steady part, after the last responses of the burst, and its length: three windows of the limit."""

STEADY_TIMES = 2
"""The rate of the steady part, as a multiple of the limit."""

LONE_PAUSE_S = 5.0
"""Time before the lone client begins, in which all other requests are answered."""

BURST, STEADY, LONE = "burst", "steady", "lone"


class Outline(NamedTuple):
    """What the plan depends on: the key's limit, and whether the test has no steady part."""

    limit: int
    short: bool


def plan_of(deployment: Deployment, key: Key, outline: Outline) -> Plan:
    """Return the plan: the burst, the steady part unless the test is short, and the lone client."""
    steady_s = 0.0 if outline.short else STEADY_START_S + STEADY_S
    lanes = [
        lane_of(deployment, key, number, api, f"shared, {api}", arrivals_of(outline), USERS[api])
        for number, api in enumerate(APIS)
    ]
    alone = (Arrivals(steady_s + LONE_PAUSE_S, 2 * outline.limit, phase=LONE),)
    lanes.append(lane_of(deployment, key, len(lanes), "rest", "lone client", alone, 1))
    return Plan(url=deployment.url, grpc=deployment.grpc, lanes=tuple(lanes), response_timeout_s=RESPONSE_TIMEOUT_S)


def arrivals_of(outline: Outline) -> tuple[Arrivals, ...]:
    """Return the requests of each API."""
    burst = Arrivals(0, outline.limit, phase=BURST)
    if outline.short:
        return (burst,)
    rate = STEADY_TIMES * outline.limit / WINDOW_S / len(APIS)
    return burst, Arrivals(STEADY_START_S, int(rate * STEADY_S), rate, STEADY)


def lane_of(
    deployment: Deployment, key: Key, number: int, api: Api, name: str, arrivals: tuple[Arrivals, ...], users: int
) -> Lane:
    """Return a lane of one API. Its batches have one event, because the limit counts requests."""
    return Lane(
        number=number,
        name=name,
        kind=name,
        api=api,
        key=key.secret,
        tenant_id=key.tenant_id,
        source=deployment.source(name),
        sizes=(1,),
        users=users,
        arrivals=arrivals,
        waits_once=arrivals[0].phase == LONE,
    )


async def test(outline: Outline, options: Options, deployment: Deployment, directory: Path) -> Verdict:
    """Run the plan, verify the database and judge the result."""
    (key,) = await deployment.keys(["limits"], outline.limit)
    plan = plan_of(deployment, key, outline)
    records = await run_locust(plan, directory / "run", options)
    verified = deployment.verify(records, plan.lanes).checks()
    return judge(records, plan.lanes, options, outline, verified)


def judge(
    records: Sequence[Record], lanes: Sequence[Lane], options: Options, outline: Outline, verified: Sequence[Check]
) -> Verdict:
    """Compute the figures, and check them against the thresholds."""
    by_lane = stats.grouped(records, lambda record: record.lane)
    lines = [stats.line_of(lane.name, by_lane[lane.number]) for lane in lanes]
    by_outcome = stats.grouped(records, lambda record: str(record.outcome))
    admitted = {"admitted": running_total([r for r in records if r.outcome == "acknowledged"])}
    return Verdict(
        name="limits",
        lines=lines,
        checks=[*limit_checks(records, lanes, outline.limit), *verified],
        charts={
            "Over time": [
                LineChart(
                    title="Admitted in the last 60 s",
                    unit="requests",
                    series=admitted,
                    level=("the limit", outline.limit),
                ),
                LineChart(
                    title="Responses",
                    unit="requests/s",
                    series=stats.rates(by_outcome, lambda _: 1, lambda record: record.answered_s),
                ),
            ]
        },
        records=records,
        settings={"workers": options.workers, "limit": outline.limit, "short": options.short},
    )


def running_total(admitted: Sequence[Record]) -> list[tuple[float, float]]:
    """Count the requests that were sent and answered in the 60 s before each second: certainly admitted in them."""
    sent = sorted(record.sent_s for record in admitted)
    answered = sorted(record.answered_s for record in admitted)
    seconds = range(int(answered[-1]) + 2) if answered else range(0)
    return [(at, bisect_right(answered, at) - bisect_right(sent, at - WINDOW_S)) for at in seconds]


def limit_checks(records: Sequence[Record], lanes: Sequence[Lane], limit: int) -> list[Check]:
    """Check what a key with a limit promises: exactness, headers, and waits that suffice."""
    phases = {lane.number: lane for lane in lanes}
    by_phase = stats.grouped(records, lambda record: phases[record.lane].phase(record.ticket))
    admitted = [record for record in records if record.outcome == "acknowledged"]
    burst = by_phase[BURST]
    rest = [record for record in records if phases[record.lane].api == "rest"]
    return [
        *response_checks(records, ("acknowledged", "limited")),
        Check(BURST_ADMITTED, sum(record.outcome == "acknowledged" for record in burst) - limit),
        Check(BURST_S, max(r.answered_s for r in burst) - min(r.sent_s for r in burst)),
        Check(MOST_ADMITTED, most_admitted(admitted) - limit),
        Check(EARLY_REJECTIONS, early_rejections(records, admitted, limit)),
        Check(MISSING_LIMIT_HEADERS, sum(not record.limit_headers for record in rest)),
        *lone_checks(by_phase[LONE]),
    ]


def most_admitted(admitted: Sequence[Record]) -> int:
    """Return the most requests that were certainly admitted in a period of 60 s: sent and answered in it."""
    most, answered = 0, list[float]()
    for record in sorted(admitted, key=lambda record: record.sent_s, reverse=True):
        insort(answered, record.answered_s)  # now of all requests that were sent at this time or later
        most = max(most, bisect_right(answered, record.sent_s + WINDOW_S))
    return most


def early_rejections(records: Sequence[Record], admitted: Sequence[Record], limit: int) -> int:
    """Count the rejections before which, in 62 s, certainly less than `USED_SHARE` of the limit was admitted."""
    sent = sorted(record.sent_s for record in admitted)
    answered = sorted(record.answered_s for record in admitted)
    early = 0
    for rejection in records:
        if rejection.outcome == "limited":
            answered_before = bisect_left(answered, rejection.sent_s - SLACK_WINDOW_S)
            sent_before = bisect_right(sent, rejection.answered_s)
            early += sent_before - answered_before < limit * USED_SHARE
    return early


def lone_checks(records: Sequence[Record]) -> list[Check]:
    """Check that the lone client was rejected once, and admitted after the wait."""
    outcomes = [record.outcome for record in sorted(records, key=lambda record: record.sent_s)]
    rejected_at = outcomes.index("limited") if "limited" in outcomes else len(outcomes)
    return [
        Check(LONE_REJECTED, outcomes[: rejected_at + 1].count("limited")),
        Check(LONE_ADMITTED, outcomes[rejected_at + 1 :].count("acknowledged")),
    ]


@click.command()
@shared_options
@click.option(
    "--limit", type=click.IntRange(1), help=f"Requests a minute of the key.  [default: {LIMIT}, short: {SHORT_LIMIT}]"
)
def main(options: Options, limit: int | None) -> None:
    """Send more than a key's limit over REST and gRPC, and check that exactly the limit is admitted."""
    outline = Outline(limit or (SHORT_LIMIT if options.short else LIMIT), options.short)
    run_command(partial(test, outline), options)


if __name__ == "__main__":
    main()
