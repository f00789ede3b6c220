"""Whether a key's rate limit is exact over protocols and workers: `python -m loadtests.limits` (`--help`).

Users of REST, unary calls and streams share one key. First all send at once, three times the limit; then they go on at
twice the limit for three minutes; then a lone client sends until it is refused, waits as told, and sends once more.

When the server admitted a request is not seen from outside: it was between sending and answer. So every count is made
such that nothing but a fault fails it. "More than the limit in 60 s" counts only requests sent after the beginning and
answered before the end of the 60 s: these were admitted within, whatever the moment. "Refused too early" counts for the
refusal all requests that may have been admitted in the 62 s before it: answered after their beginning, sent before its
answer. What this forgives is as long as an answer takes.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from loadtests.support import stats
from loadtests.support.charts import line_chart
from loadtests.support.checks import answer_checks
from loadtests.support.command import carry_out
from loadtests.support.options import Options, shared_options
from loadtests.support.plan import Arrivals, Face, Lane, Plan
from loadtests.support.processes import Key
from loadtests.support.records import Record
from loadtests.support.run_locust import MAX_ANSWER_S, Place, run_locust
from loadtests.support.thresholds import (
    BURST_ADMITTED,
    BURST_S,
    EARLY_REFUSALS,
    LONE_ADMITTED,
    LONE_REFUSED,
    MISSING_LIMIT_HEADERS,
    MOST_ADMITTED,
    SLACK_WINDOW_S,
    USED_SHARE,
    WINDOW_S,
    Check,
)
from loadtests.support.verdict import Verdict

LIMIT, SHORT_LIMIT = 1_000, 20
"""Requests a minute: the default of a key; and what a test of a minute and a few seconds needs."""

FACES: tuple[Face, ...] = ("rest", "unary", "stream")

USERS = {"rest": 10, "unary": 10, "stream": 4}
"""Enough connections to reach all workers."""

STEADY_START_S, STEADY_S = 20.0, 180.0
"""The second part: after the last answers of the burst, and for three windows of the limit."""

STEADY_TIMES = 2
"""The second part sends so many times the limit."""

LONE_PAUSE_S = 5.0
"""Before the lone client begins: it must be alone."""

BURST, STEADY, LONE = "burst", "steady", "lone"


class Outline(NamedTuple):
    """What the plan depends on."""

    limit: int
    short: bool


def plan_of(place: Place, key: Key, outline: Outline) -> Plan:
    """Everyone at once, everyone at a steady rate, and the lone client."""
    steady_s = 0.0 if outline.short else STEADY_START_S + STEADY_S
    lanes = [
        lane_of(place, key, number, face, f"shared, {face}", arrivals_of(outline), USERS[face])
        for number, face in enumerate(FACES)
    ]
    alone = (Arrivals(steady_s + LONE_PAUSE_S, 2 * outline.limit, phase=LONE),)
    lanes.append(lane_of(place, key, len(lanes), "rest", "lone client", alone, 1))
    return Plan(url=place.url, grpc=place.grpc, lanes=tuple(lanes), max_answer_s=MAX_ANSWER_S)


def arrivals_of(outline: Outline) -> tuple[Arrivals, ...]:
    """What each face sends."""
    burst = Arrivals(0, outline.limit, phase=BURST)
    if outline.short:
        return (burst,)
    rate = STEADY_TIMES * outline.limit / WINDOW_S / len(FACES)
    return burst, Arrivals(STEADY_START_S, int(rate * STEADY_S), rate, STEADY)


def lane_of(
    place: Place, key: Key, number: int, face: Face, name: str, arrivals: tuple[Arrivals, ...], users: int
) -> Lane:
    """Users of one face, with single events: it is requests that count."""
    return Lane(
        number=number,
        name=name,
        kind=name,
        face=face,
        key=key.secret,
        tenant_id=key.tenant_id,
        source=place.source(name),
        sizes=(1,),
        users=users,
        arrivals=arrivals,
        patient=arrivals[0].phase == LONE,
    )


async def test(options: Options, place: Place, directory: Path, outline: Outline) -> Verdict:
    """Run, verify and judge."""
    (key,) = await place.keys(["limits"], outline.limit)
    plan = plan_of(place, key, outline)
    records = await run_locust(plan, directory / "run", options)
    verified = place.verify(records, plan.lanes).checks()
    return judge(records, plan.lanes, options, outline, verified)


def judge(
    records: Sequence[Record], lanes: Sequence[Lane], options: Options, outline: Outline, verified: Sequence[Check]
) -> Verdict:
    """The figures, and the verdict on them."""
    by_lane = stats.grouped(records, lambda record: record.lane)
    lines = [stats.line_of(lane.name, by_lane[lane.number]) for lane in lanes]
    by_outcome = stats.grouped(records, lambda record: str(record.outcome))
    admitted = {"admitted": running_total([r for r in records if r.outcome == "acknowledged"])}
    return Verdict(
        name="limits",
        lines=lines,
        checks=[*limit_checks(records, lanes, outline.limit), *verified],
        charts=[
            line_chart("Admitted in the last 60 s", "requests", admitted, ("the limit", outline.limit)),
            line_chart("Answers", "requests/s", stats.rates(by_outcome, lambda _: 1, lambda r: r.answered_s)),
        ],
        records=records,
        settings={"workers": options.workers, "limit": outline.limit, "short": options.short},
    )


def running_total(admitted: Sequence[Record]) -> list[tuple[float, float]]:
    """How many were answered in the 60 s up to each second."""
    answered = sorted(record.answered_s for record in admitted)
    seconds = range(int(answered[-1]) + 2) if answered else range(0)
    return [(at, bisect_right(answered, at) - bisect_right(answered, at - WINDOW_S)) for at in seconds]


def limit_checks(records: Sequence[Record], lanes: Sequence[Lane], limit: int) -> list[Check]:
    """All that a limited key may expect."""
    phases = {lane.number: lane for lane in lanes}
    by_phase = stats.grouped(records, lambda record: phases[record.lane].phase(record.ticket))
    admitted = [record for record in records if record.outcome == "acknowledged"]
    burst = by_phase[BURST]
    rest = [record for record in records if phases[record.lane].face == "rest"]
    return [
        *answer_checks(records, ("acknowledged", "limited")),
        Check(BURST_ADMITTED, sum(record.outcome == "acknowledged" for record in burst) - limit),
        Check(BURST_S, max(r.answered_s for r in burst) - min(r.sent_s for r in burst)),
        Check(MOST_ADMITTED, most_admitted(admitted) - limit),
        Check(EARLY_REFUSALS, early_refusals(records, admitted, limit)),
        Check(MISSING_LIMIT_HEADERS, sum(not record.limit_headers for record in rest)),
        *lone_checks(by_phase[LONE]),
    ]


def most_admitted(admitted: Sequence[Record]) -> int:
    """The most requests that were certainly admitted within some 60 s: sent and answered in them."""
    most, answered = 0, list[float]()
    for record in sorted(admitted, key=lambda record: record.sent_s, reverse=True):
        insort(answered, record.answered_s)  # of all that were sent no earlier
        most = max(most, bisect_right(answered, record.sent_s + WINDOW_S))
    return most


def early_refusals(records: Sequence[Record], admitted: Sequence[Record], limit: int) -> int:
    """How many were refused although, counting all that may have been admitted in the 62 s before, it was too few."""
    sent = sorted(record.sent_s for record in admitted)
    answered = sorted(record.answered_s for record in admitted)
    early = 0
    for refusal in records:
        if refusal.outcome == "limited":
            over_before = bisect_left(answered, refusal.sent_s - SLACK_WINDOW_S)
            begun = bisect_right(sent, refusal.answered_s)
            early += begun - over_before < limit * USED_SHARE
    return early


def lone_checks(records: Sequence[Record]) -> list[Check]:
    """The lone client was refused once, and admitted after the wait that it was told."""
    outcomes = [record.outcome for record in sorted(records, key=lambda record: record.sent_s)]
    refused_at = outcomes.index("limited") if "limited" in outcomes else len(outcomes)
    return [
        Check(LONE_REFUSED, outcomes[: refused_at + 1].count("limited")),
        Check(LONE_ADMITTED, outcomes[refused_at + 1 :].count("acknowledged")),
    ]


@click.command()
@shared_options
@click.option("--limit", type=click.IntRange(1), help=f"The key's, a minute.  [default: {LIMIT}, short: {SHORT_LIMIT}]")
def main(options: Options, limit: int | None) -> None:
    """Send more than a key allows over REST and gRPC, and see that exactly the limit is admitted."""
    outline = Outline(limit or (SHORT_LIMIT if options.short else LIMIT), options.short)

    async def with_outline(options: Options, place: Place, directory: Path) -> Verdict:
        return await test(options, place, directory, outline)

    carry_out(with_outline, options)


if __name__ == "__main__":
    main()
