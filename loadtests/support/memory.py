"""The memory of a server's workers while a load test runs. Imports the processes and the thresholds."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from loadtests.support.charts import Point
from loadtests.support.processes import resident_mib
from loadtests.support.thresholds import WORKER_GROWTH, WORKER_MIB, Check

SAMPLE_S = 1.0
"""Between two looks."""

WARM_UP_S = 60.0
"""Caches fill and pools grow; from then on memory is to be flat."""

Curves = dict[str, list[Point]]
"""Of each worker: seconds since the start, and MiB resident."""


@asynccontextmanager
async def watched(pids: Sequence[int]) -> AsyncIterator[Curves]:
    """The memory of workers, looked at again and again while the block runs."""
    curves: Curves = {f"worker {number}": [] for number in range(len(pids))}
    watching = asyncio.create_task(watch(pids, curves))
    try:
        yield curves
    finally:
        watching.cancel()


async def watch(pids: Sequence[int], curves: Curves) -> None:
    """Add to the curves until cancelled."""
    started_s = time.monotonic()
    while True:
        for pid, curve in zip(pids, curves.values(), strict=True):
            curve.append((time.monotonic() - started_s, resident_mib([pid])))
        await asyncio.sleep(SAMPLE_S)


def memory_checks(curves: Curves) -> list[Check]:
    """That no worker takes too much; and where the test was long enough to say, that none takes more and more."""
    checks = [Check(WORKER_MIB, max(mib for curve in curves.values() for _, mib in curve))] if curves else []
    for curve in curves.values():
        warm = [mib for moment, mib in curve if moment >= WARM_UP_S]
        if curve[-1][0] >= 2 * WARM_UP_S:
            checks.append(Check(WORKER_GROWTH, max(warm) / warm[0]))
    return checks
