"""Removes documents slowly, so that ingestion notices little.

After each batch comes a pause, in proportion to the time that the batch took. So a busy database, which takes longer
for a batch, also has longer pauses.

Example: a batch of 1,000 events takes 9 ms, and is followed by a pause of 36 ms: 22,000 events a second. When clients
send as much as the database can store, it takes 50 ms, and the pause is 200 ms: 4,000 a second.
"""

import asyncio
from time import monotonic

from server.core.deadline import Deadline
from server.core.tenants.store import Removal

WORK_SHARE = 0.2
"""The share of the time in which the database works on a removal."""


async def remove_batch(removal: Removal) -> int | None:
    """Remove the next batch, and pause. Returns how many documents it had; None if nothing is left.

    Raises Unavailable.
    """
    began = monotonic()
    removed = await removal.remove_next(Deadline())
    if removed is not None:
        await asyncio.sleep((monotonic() - began) * (1 / WORK_SHARE - 1))
    return removed
