"""Records the memory of a server's workers while a load test runs, because a worker that grows must be noticed."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from loadtests.support.charts import Point
from loadtests.support.processes import resident_mib
from loadtests.support.thresholds import WORKER_GROWTH, WORKER_MIB, Check

SAMPLE_S = 1.0
"""Time between two samples."""

WARM_UP_S = 60.0
"""Time in which caches fill and pools grow. After it, memory must stay flat."""

Curves = dict[str, list[Point]]
"""By worker: points of seconds since the start and MiB resident."""


@asynccontextmanager
async def memory_curves(pids: Sequence[int]) -> AsyncIterator[Curves]:
    """Sample the memory of the workers while the block runs. The curves grow meanwhile."""
    curves: Curves = {f"worker {number}": [] for number in range(len(pids))}
    sampling = asyncio.create_task(sample(pids, curves))
    try:
        yield curves
    finally:
        sampling.cancel()


async def sample(pids: Sequence[int], curves: Curves) -> None:
    """Add a point to each curve every `SAMPLE_S`, until cancelled."""
    started_s = time.monotonic()
    while True:
        for pid, curve in zip(pids, curves.values(), strict=True):
            curve.append((time.monotonic() - started_s, resident_mib([pid])))
        await asyncio.sleep(SAMPLE_S)


def memory_checks(curves: Curves) -> list[Check]:
    """Check that no worker is too large and, if the test took at least 2 minutes, that none kept growing."""
    checks = [Check(WORKER_MIB, max(mib for curve in curves.values() for _, mib in curve))] if curves else []
    for curve in curves.values():
        warm = [mib for moment, mib in curve if moment >= WARM_UP_S]
        if curve[-1][0] >= 2 * WARM_UP_S:
            checks.append(Check(WORKER_GROWTH, max(warm) / warm[0]))
    return checks
