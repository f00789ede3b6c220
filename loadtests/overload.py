"""What becomes of more than Sluice can take: `python -m loadtests.overload` (`--help`).

First the capacity is measured, with callers who wait for each answer. Then requests arrive at rates that do not care
about answers: a quarter of the capacity, in steps to three times of it, and a quarter again. The surplus must be
refused with a wait, nothing acknowledged may be lost, and at the low rate all must at once be as it was before.
Latency counts from when a request was due, not from when a caller was free to send it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from loadtests.support import stats
from loadtests.support.charts import line_chart
from loadtests.support.checks import answer_checks
from loadtests.support.command import carry_out
from loadtests.support.options import Options, shared_options
from loadtests.support.plan import Arrivals, Face, Lane, Plan, Turn
from loadtests.support.processes import Key
from loadtests.support.records import Record
from loadtests.support.run_locust import MAX_ANSWER_S, Place, run_locust, say
from loadtests.support.thresholds import (
    ANSWER_S,
    NORMAL_P95_MS,
    RECOVERED_P95,
    RECOVERED_REFUSALS,
    RECOVERY_S,
    SURPLUS_REFUSED,
    Check,
)
from loadtests.support.verdict import Verdict

FACES: tuple[Face, ...] = ("rest", "unary")
"""Not streams: their surplus is not refused but held back, by flow control."""

BATCH_SIZE = 500
"""Large enough that Locust can send three times what the server takes, on the same machine."""

CALIBRATION_USERS = 8
"""Of each face: as many as in `loadtests.throughput`, enough to reach the capacity."""

USERS = 250
"""Of each face: so many requests can be under way, before arrivals have to wait for a free caller."""

LOW = 0.25
"""Of the capacity, before and after: the server has next to nothing to do."""

BEFORE, AFTER = "before", "after"


class Shape(NamedTuple):
    """How long each part takes in seconds, and the shares of the capacity that are stepped through."""

    calibration_s: float
    low_s: float
    step_s: float
    shares: tuple[float, ...]


FULL = Shape(8.0, 15.0, 8.0, (0.5, 1.0, 1.5, 2.0, 3.0))
SHORT = Shape(2.0, 5.0, 2.0, (1.0, 3.0))


def calibration_of(place: Place, key: Key, shape: Shape) -> Plan:
    """Callers who wait for each answer, as fast as those come."""
    turn = Turn(0, shape.calibration_s)
    return plan_of(place, [lane_of(place, key, n, face, (), turn, CALIBRATION_USERS) for n, face in enumerate(FACES)])


def surplus_of(place: Place, key: Key, shape: Shape, capacity: float) -> Plan:
    """Arrivals in steps, half of them over each face. `capacity` is in requests a second."""
    arrivals, start_s = [], 0.0
    for phase, share, seconds in phases(shape):
        rate = max(1.0, share * capacity / len(FACES))
        arrivals.append(Arrivals(start_s, round(rate * seconds), rate, phase))
        start_s += seconds
    lanes = [lane_of(place, key, len(FACES) + n, face, tuple(arrivals), None, USERS) for n, face in enumerate(FACES)]
    return plan_of(place, lanes)


def phases(shape: Shape) -> list[tuple[str, float, float]]:
    """Name, share of the capacity, and length of each step."""
    steps = [(f"at {share:g} of the capacity", share, shape.step_s) for share in shape.shares]
    return [(BEFORE, LOW, shape.low_s), *steps, (AFTER, LOW, shape.low_s)]


def plan_of(place: Place, lanes: Sequence[Lane]) -> Plan:
    """A plan of lanes."""
    return Plan(url=place.url, grpc=place.grpc, lanes=tuple(lanes), max_answer_s=MAX_ANSWER_S)


def lane_of(
    place: Place, key: Key, number: int, face: Face, arrivals: tuple[Arrivals, ...], turn: Turn | None, users: int
) -> Lane:
    """Users of one face."""
    return Lane(
        number=number,
        name=f"{face}{'' if arrivals else ', calibration'}",
        kind=face,
        face=face,
        key=key.secret,
        tenant_id=key.tenant_id,
        source=place.source(f"{face}-{number}"),
        sizes=(BATCH_SIZE,),
        users=users,
        arrivals=arrivals,
        turn=turn,
    )


async def test(options: Options, place: Place, directory: Path) -> Verdict:
    """Measure the capacity, exceed it, verify and judge."""
    shape = SHORT if options.short else FULL
    (key,) = await place.keys(["overload"])
    calibration = calibration_of(place, key, shape)
    calm = await run_locust(calibration, directory / "run-1", options)
    capacity = stats.line_of("", calm).requests_per_s
    say(f"capacity: {capacity:,.0f} requests a second of {BATCH_SIZE} events")
    surplus = surplus_of(place, key, shape, capacity)
    records = await run_locust(surplus, directory / "run-2", options)
    verified = place.verify([*calm, *records], [*calibration.lanes, *surplus.lanes]).checks()
    return judge(records, surplus.lanes, options, shape, capacity, verified)


def judge(
    records: Sequence[Record],
    lanes: Sequence[Lane],
    options: Options,
    shape: Shape,
    capacity: float,
    verified: Sequence[Check],
) -> Verdict:
    """The figures, and the verdict on them."""
    by_number = {lane.number: lane for lane in lanes}
    by_phase = stats.grouped(records, lambda record: by_number[record.lane].phase(record.ticket))
    by_outcome = stats.grouped(records, lambda record: str(record.outcome))
    by_face = stats.grouped(records, lambda record: by_number[record.lane].name)
    return Verdict(
        name="overload",
        lines=[stats.line_of(phase, by_phase[phase]) for phase, _, _ in phases(shape)],
        checks=[*overload_checks(by_phase), *verified],
        charts=[
            line_chart(
                "Offered, and answers",
                "requests/s",
                {
                    **stats.rates({"offered": records}, lambda _: 1, lambda r: r.due_s),
                    **stats.rates(by_outcome, lambda _: 1, lambda r: r.answered_s),
                },
                ("the capacity", capacity),
            ),
            line_chart("Latency, p50", "ms", stats.latencies(by_face, 0.50)),
            line_chart("Latency, p95", "ms", stats.latencies(by_face, 0.95)),
        ],
        records=records,
        settings={"workers": options.workers, "batch size": BATCH_SIZE, "short": options.short},
        figures={"capacity, requests/s": round(capacity, 1)},
    )


def overload_checks(by_phase: dict[str, list[Record]]) -> list[Check]:
    """What must hold while there is too much, and after."""
    records = [record for phase in by_phase.values() for record in phase]
    begun_s = min(record.due_s for record in by_phase[AFTER])
    recovered = [record for record in by_phase[AFTER] if record.due_s >= begun_s + RECOVERY_S]
    refusals = [record for record in recovered if record.outcome != "acknowledged"]
    return [
        *answer_checks(records, ("acknowledged", "limited", "unavailable", "uncertain")),
        Check(SURPLUS_REFUSED, sum(record.outcome in ("limited", "unavailable") for record in records)),
        Check(ANSWER_S, max(record.answered_s - record.sent_s for record in records)),
        Check(RECOVERED_P95, normal_p95_ms(recovered) / normal_p95_ms(by_phase[BEFORE])),
        Check(RECOVERED_REFUSALS, len(refusals)),
    ]


def normal_p95_ms(records: Sequence[Record]) -> float:
    """The p95 latency, or what is as good as none."""
    return max(NORMAL_P95_MS, stats.percentile(sorted(record.latency_s * 1_000 for record in records), 0.95))


@click.command()
@shared_options
def main(options: Options) -> None:
    """Send more than the server can take, and see that it refuses cleanly, loses nothing, and recovers at once."""
    carry_out(test, options)


if __name__ == "__main__":
    main()
