"""Counts the usage of a worker, and saves it.

A request costs one look into a dictionary. Every few seconds, what was counted is added to cells: for each tenant one
of the minute and one of the hour. Each cell that has changed is saved as a whole, under an id that no other worker
uses. So a call whose outcome is unknown can be repeated, and counts nothing twice. A read adds up the cells of all
workers.

Example: worker A counts 3 requests of a tenant in a minute and saves its cell, 3. It counts 2 more, saves 5, and the
response is lost. It saves 5 again. Worker B has saved 4 in its own cell. A read gives 9.

A worker that is killed loses what it has not saved: at most the last SAVE_INTERVAL_S, and the time of a call.

If the database is away, cells wait. In an outage hardly any are added, since no key can be checked either.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from time import time_ns
from uuid import UUID, uuid4

from server.core.deadline import Deadline
from server.core.times import NS_PER_MS
from server.core.usage.model import STEP_MS, Counts, Step, UsageCell, start_of
from server.core.usage.store import UsageStore

SAVE_INTERVAL_S = 5.0
"""How often usage is saved, and so by how much it may lag, and what a worker that is killed loses."""

SAVE_TIMEOUT_S = 5.0
"""How long a call may take. A drain waits for it."""

MAX_CELLS = 20_000
"""Cells that a worker holds: some 15 MB. It is enough for the minute and the hour of 10,000 tenants."""

MAX_SAVED = 500
"""Cells in one call, which takes a worker some 5 ms."""

NS_PER_MINUTE = STEP_MS["minute"] * NS_PER_MS

log = logging.getLogger("sluice")


class UsageCounts:
    """The usage that this worker has counted, as far as it is not saved in `store` for good."""

    def __init__(self, store: UsageStore) -> None:
        self._store = store
        self._counted = dict[tuple[UUID, int, str], list[int]]()
        """Requests and events since the last save, by tenant, minute and outcome."""
        self._cells = dict[tuple[UUID, Step, int], UsageCell]()

    def add(self, tenant_id: UUID, outcome: str, requests: int, events: int) -> None:
        """Count requests and events of a tenant that have this outcome: one of OUTCOMES."""
        key = (tenant_id, time_ns() // NS_PER_MINUTE, outcome)
        counted = self._counted.get(key)
        if counted is None:
            counted = self._counted[key] = [0, 0]
        counted[0] += requests
        counted[1] += events

    async def save_next(self) -> None:
        """Pause, and then save the cells that have changed. Raises Unavailable; the next call saves them then."""
        await asyncio.sleep(SAVE_INTERVAL_S)
        await self.save()

    async def save(self) -> None:
        """Save the cells that have changed. Raises Unavailable; the next call saves them then."""
        self._move_to_cells()
        unsaved = [cell for cell in self._cells.values() if not cell.is_saved]
        for start in range(0, len(unsaved), MAX_SAVED):
            await self._save(unsaved[start : start + MAX_SAVED])
        self._forget_past()

    async def _save(self, cells: Sequence[UsageCell]) -> None:
        for cell in cells:
            cell.is_saved = True  # until it changes again, which may happen meanwhile
        try:
            await self._store.save(cells, Deadline(SAVE_TIMEOUT_S))
        except BaseException:  # a cancellation too: a drain saves what is left
            for cell in cells:
                cell.is_saved = False
            raise

    def _move_to_cells(self) -> None:
        """Add what was counted to the cells."""
        counted, self._counted = self._counted, {}
        lost = 0
        for (tenant_id, minute, outcome), (requests, events) in counted.items():
            cells = list(self._cells_of(tenant_id, minute * STEP_MS["minute"]))
            for cell in cells:
                cell.counts.requests[outcome] += requests
                cell.counts.events[outcome] += events
                cell.is_saved = False
            lost += requests if len(cells) < len(STEP_MS) else 0
        if lost:
            log.warning("the usage of %d requests was not kept: too much of it waits to be saved", lost)

    def _cells_of(self, tenant_id: UUID, time_ms: int) -> Iterator[UsageCell]:
        """The cells of a moment: one for each step, unless there is no room for it."""
        for step in STEP_MS:
            key = (tenant_id, step, start_of(step, time_ms))
            if key not in self._cells and self._has_room():
                counts = Counts(Counter(), Counter())
                self._cells[key] = UsageCell(
                    tenant_id=tenant_id, step=step, start_ms=key[2], part=uuid4(), counts=counts
                )
            if key in self._cells:
                yield self._cells[key]

    def _has_room(self) -> bool:
        """Whether one more cell may be held. If need be, those that are saved are forgotten.

        What is counted later in the same step gets a cell with another id then, so nothing is overwritten.
        """
        if len(self._cells) >= MAX_CELLS:
            self._cells = {key: cell for key, cell in self._cells.items() if not cell.is_saved}
        return len(self._cells) < MAX_CELLS

    def _forget_past(self) -> None:
        """Forget cells of steps that are over and saved."""
        now_ms = time_ns() // NS_PER_MS
        past = [key for key, cell in self._cells.items() if cell.is_saved and cell.end_ms() <= now_ms]
        for key in past:
            del self._cells[key]
