"""Sends more than Sluice can take, and checks that it recovers: `python -m loadtests.overload` (`--help`).

First the capacity is measured, with users that wait for each response. Then requests are due at fixed rates: a quarter
of the capacity, in steps up to three times the capacity, and a quarter again. Three things are checked. The surplus is
rejected with a wait. No acknowledged event is lost. Back at the low rate, latency is soon as it was before.

Latency counts from the time at which a request was due, not from when a user was free to send it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from loadtests.support import stats
from loadtests.support.charts import LineChart
from loadtests.support.checks import response_checks
from loadtests.support.command import run_command
from loadtests.support.deployment import Deployment
from loadtests.support.options import Options, shared_options
from loadtests.support.plan import Api, Arrivals, Lane, Plan, Turn
from loadtests.support.processes import Key
from loadtests.support.progress import say
from loadtests.support.records import Record
from loadtests.support.run_locust import RESPONSE_TIMEOUT_S, run_locust
from loadtests.support.thresholds import (
    NORMAL_P95_MS,
    RECOVERED_P95,
    RECOVERED_REJECTIONS,
    RECOVERY_S,
    RESPONSE_S,
    SURPLUS_REJECTED,
    Check,
)
from loadtests.support.verdict import Verdict

APIS: tuple[Api, ...] = ("rest", "unary")
"""Streams are left out: flow control slows them down, so they are not rejected."""

BATCH_SIZE = 500
"""Events in a batch, so that Locust can send three times what the server takes, on the same machine."""

CALIBRATION_USERS = 8
"""Users of each API that measure the capacity: as many as in `loadtests.throughput`."""

USERS = 250
"""Users of each API, and so the requests that can be in flight before one that is due must wait for a user."""

LOW = 0.25
"""The share of the capacity that is sent before and after the surplus."""

BEFORE, AFTER = "before", "after"


class Shape(NamedTuple):
    """The length of each part in seconds, and the shares of the capacity that are sent in steps."""

    calibration_s: float
    low_s: float
    step_s: float
    shares: tuple[float, ...]


FULL = Shape(8.0, 15.0, 8.0, (0.5, 1.0, 1.5, 2.0, 3.0))
SHORT = Shape(2.0, 5.0, 2.0, (1.0, 3.0))


def calibration_of(deployment: Deployment, key: Key, shape: Shape) -> Plan:
    """Return the plan that measures the capacity, with users that wait for each response."""
    turn = Turn(0, shape.calibration_s)
    return plan_of(
        deployment, [lane_of(deployment, key, n, api, (), turn, CALIBRATION_USERS) for n, api in enumerate(APIS)]
    )


def surplus_of(deployment: Deployment, key: Key, shape: Shape, capacity: float) -> Plan:
    """Return the plan of the steps, with half of the requests over each API. `capacity` is in requests a second."""
    arrivals, start_s = [], 0.0
    for phase, share, seconds in phases(shape):
        rate = max(1.0, share * capacity / len(APIS))
        arrivals.append(Arrivals(start_s, round(rate * seconds), rate, phase))
        start_s += seconds
    lanes = [lane_of(deployment, key, len(APIS) + n, api, tuple(arrivals), None, USERS) for n, api in enumerate(APIS)]
    return plan_of(deployment, lanes)


def phases(shape: Shape) -> list[tuple[str, float, float]]:
    """Return the name, the share of the capacity, and the length in seconds of each step."""
    steps = [(f"at {share:g} of the capacity", share, shape.step_s) for share in shape.shares]
    return [(BEFORE, LOW, shape.low_s), *steps, (AFTER, LOW, shape.low_s)]


def plan_of(deployment: Deployment, lanes: Sequence[Lane]) -> Plan:
    """Return the plan of these lanes."""
    return Plan(url=deployment.url, grpc=deployment.grpc, lanes=tuple(lanes), response_timeout_s=RESPONSE_TIMEOUT_S)


def lane_of(
    deployment: Deployment,
    key: Key,
    number: int,
    api: Api,
    arrivals: tuple[Arrivals, ...],
    turn: Turn | None,
    users: int,
) -> Lane:
    """Return a lane of one API: with `arrivals`, or for the calibration with a `turn`."""
    return Lane(
        number=number,
        name=f"{api}{'' if arrivals else ', calibration'}",
        kind=api,
        api=api,
        key=key.secret,
        tenant_id=key.tenant_id,
        source=deployment.source(f"{api}-{number}"),
        sizes=(BATCH_SIZE,),
        users=users,
        arrivals=arrivals,
        turn=turn,
    )


async def test(options: Options, deployment: Deployment, directory: Path) -> Verdict:
    """Measure the capacity, exceed it, verify the database and judge the result."""
    shape = SHORT if options.short else FULL
    (key,) = await deployment.keys(["overload"])
    calibration = calibration_of(deployment, key, shape)
    calibrated = await run_locust(calibration, directory / "run-1", options)
    capacity = stats.line_of("", calibrated).requests_per_s
    say(f"capacity: {capacity:,.0f} requests a second of {BATCH_SIZE} events")
    surplus = surplus_of(deployment, key, shape, capacity)
    records = await run_locust(surplus, directory / "run-2", options)
    verified = deployment.verify([*calibrated, *records], [*calibration.lanes, *surplus.lanes]).checks()
    return judge(records, surplus.lanes, options, shape, capacity, verified)


def judge(
    records: Sequence[Record],
    lanes: Sequence[Lane],
    options: Options,
    shape: Shape,
    capacity: float,
    verified: Sequence[Check],
) -> Verdict:
    """Compute the figures of each step, and check them against the thresholds."""
    by_number = {lane.number: lane for lane in lanes}
    by_phase = stats.grouped(records, lambda record: by_number[record.lane].phase(record.ticket))
    by_outcome = stats.grouped(records, lambda record: str(record.outcome))
    by_name = stats.grouped(records, lambda record: by_number[record.lane].name)
    by_api = {str(api): by_name[api] for api in APIS}  # in this order, so that each has its colour
    return Verdict(
        name="overload",
        lines=[stats.line_of(phase, by_phase[phase]) for phase, _, _ in phases(shape)],
        checks=[*overload_checks(by_phase), *verified],
        charts={
            "Over time": [
                LineChart(
                    title="Requests due, and responses",
                    unit="requests/s",
                    series={
                        **stats.rates({"due": records}, lambda _: 1, lambda r: r.due_s),
                        **stats.rates(by_outcome, lambda _: 1, lambda r: r.answered_s),
                    },
                    level=("the capacity", capacity),
                ),
                LineChart(title="Latency, p50", unit="ms", series=stats.latencies(by_api, 0.50)),
                LineChart(title="Latency, p95", unit="ms", series=stats.latencies(by_api, 0.95)),
            ]
        },
        records=records,
        settings={"workers": options.workers, "batch size": BATCH_SIZE, "short": options.short},
        figures={"capacity, requests/s": round(capacity, 1)},
    )


def overload_checks(by_phase: dict[str, list[Record]]) -> list[Check]:
    """Check the steps together, and then the low rate after them."""
    records = [record for phase in by_phase.values() for record in phase]
    surplus_end_s = min(record.due_s for record in by_phase[AFTER])
    recovered = [record for record in by_phase[AFTER] if record.due_s >= surplus_end_s + RECOVERY_S]
    rejected = [record for record in recovered if record.outcome != "acknowledged"]
    return [
        *response_checks(records, ("acknowledged", "limited", "unavailable", "uncertain")),
        Check(SURPLUS_REJECTED, sum(record.outcome in ("limited", "unavailable") for record in records)),
        Check(RESPONSE_S, max(record.answered_s - record.sent_s for record in records)),
        Check(RECOVERED_P95, normal_p95_ms(recovered) / normal_p95_ms(by_phase[BEFORE])),
        Check(RECOVERED_REJECTIONS, len(rejected)),
    ]


def normal_p95_ms(records: Sequence[Record]) -> float:
    """Return the p95 latency in ms, or `NORMAL_P95_MS` if that is longer."""
    return max(NORMAL_P95_MS, stats.percentile(sorted(record.latency_s * 1_000 for record in records), 0.95))


@click.command()
@shared_options
def main(options: Options) -> None:
    """Send more than the server can take, and check that it rejects cleanly, loses nothing and recovers."""
    run_command(test, options)


if __name__ == "__main__":
    main()
