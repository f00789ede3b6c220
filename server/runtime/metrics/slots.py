"""The slots of all workers in shared memory, as the supervisor sees them, and the sums over workers that are gone.

A slot is a file without a name (memfd). The supervisor makes one for each process that it starts, hands over the
descriptor, and closes its own. So nothing is left of a slot when both processes are done with it, however they end.

A worker counts in its slot directly, so the numbers of one that is killed are complete. What it had in flight is
unknown from then on: nobody was told what the database did with it. When the process has ended, its counters are added
to those of all that are gone. So no counter ever falls.

Example: a worker is killed by SIGKILL. Its slot says that 100 requests were received, 90 stored and 7 refused. Scrapes
before the supervisor notices count 3 in flight. From then on these 3 are `unknown`, and 100 are still received.
"""

import mmap
import os
from collections.abc import Sequence

from server.core.errors import Code
from server.runtime.metrics.layout import APIS, BALANCES, INTEGER_BYTES, LAYOUT, Balance

NAME = "sluice-metrics"
"""How the memory is called in /proc. It is no name in a file system."""


class Slots:
    """The slots of all workers."""

    def __init__(self) -> None:
        self._live: set[Slot] = set()
        self._gone = [0] * LAYOUT.size
        self.restarts = 0
        """Workers that replaced others."""

    def open(self) -> "Slot":
        """A slot for a worker that is about to start. Raises OSError."""
        slot = Slot(self)
        self._live.add(slot)
        return slot

    def read(self) -> list[list[int]]:
        """The numbers of each live worker."""
        return [slot.read() for slot in self._live]

    def gone(self) -> Sequence[int]:
        """The counters of all workers that are gone. At the places of levels it has zeros."""
        return self._gone

    def forget(self, slot: "Slot") -> None:
        """Add the counters of a worker that has ended to those that are gone."""
        self._live.discard(slot)
        numbers = slot.read()
        for balance in BALANCES:
            for api in APIS:
                numbers[place_of_the_lost(balance, api)] += balance.in_flight(numbers, api)
        for place in COUNTED:
            self._gone[place] += numbers[place]


class Slot:
    """The slot of one worker process."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.descriptor = os.memfd_create(NAME)
        """For the process, which inherits it."""
        size = LAYOUT.size * INTEGER_BYTES
        try:
            os.ftruncate(self.descriptor, size)
            self._memory = mmap.mmap(self.descriptor, size)
        except OSError:
            os.close(self.descriptor)
            raise
        self._numbers = memoryview(self._memory).cast("q")

    def hand_over(self) -> None:
        """Close the descriptor: the process has its own, or was not started."""
        os.close(self.descriptor)

    def read(self) -> list[int]:
        """The numbers, from the first to the last."""
        return self._numbers.tolist()

    def close(self) -> None:
        """Give the memory back, once the process has ended. Its counters go on in the sums."""
        self._slots.forget(self)
        self._numbers.release()
        self._memory.close()


def place_of_the_lost(balance: Balance, api: str) -> int:
    """Where what a dead worker had in flight is counted. Its reads were cut: they count as `unavailable`."""
    unknown = balance.outcomes.get("unknown")
    return balance.refused.places[api, Code.UNAVAILABLE] if unknown is None else unknown.places[api,]


def _counted() -> list[int]:
    """The places of counters and histograms."""
    from_levels = {place for family in LAYOUT.families if family.kind == "gauge" for place in family.places.values()}
    return [place for place in range(LAYOUT.size) if place not in from_levels]


COUNTED = _counted()
