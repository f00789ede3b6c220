"""The plan of one run of Locust: what to send, when and with which key, written by the command for Locust's processes.

A plan is a list of lanes. A lane is a group of users of one API who send one kind of batch with one key. A ticket is
the number of a request in its lane, from 0 on. Users take the next ticket of their lane from a shared counter, and the
ticket says when the request is due. So a lane sends the same requests, however Locust spreads its users over processes.

Every event has a mark in `data.n`: a number made of lane, ticket and position in the batch. So an event that is found
in the database tells which request it came from.

Example: in lane 3, the event at position 5 of the batch of ticket 42 has the mark 10^15 + 3 x 10^12 + 42 x 1,000 + 5.
"""

from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from server.core.events.model import MAX_BATCH_EVENTS

Api = Literal["rest", "unary", "stream"]
"""The ways to send a batch: a POST, a unary gRPC call, or a message on a gRPC stream."""

Flaw = Literal["none", "event", "json", "key"]
"""What is wrong with a lane's requests: nothing, one event of each batch, the JSON, or the key."""

PLAN_VARIABLE = "SLUICE_LOADTEST"
"""The environment variable that names the run's directory for Locust's processes."""

PLAN_FILE = "plan.json"

LANE_MARKS = 10**12
"""Marks of a lane: enough for a billion tickets of 1,000 events."""

FIRST_MARK = 10**15
"""The lowest mark. Every mark then has 16 digits, as `Template` needs, and is exact as a double."""


class Arrivals(Struct, frozen=True):
    """`count` requests: the first is due `start_s` into the run, then `rate` a second. If `rate` is 0, all at once."""

    start_s: float
    count: int
    rate: float = 0.0
    phase: str = ""


class Turn(Struct, frozen=True):
    """From `start_s` into the run for `seconds`, each user sends a request as soon as the one before is answered."""

    start_s: float
    seconds: float


class Lane(Struct, frozen=True, kw_only=True):
    """Users of one API and one key. It has either `arrivals` or a `turn`."""

    number: int
    """Unique within a load test, over all its plans."""
    name: str
    kind: str
    """The line of the report that its requests are counted in."""
    api: Api
    key: str
    tenant_id: str
    """As 32 hexadecimal digits; empty if the key was given on the command line."""
    source: str
    sizes: tuple[int, ...]
    """Events of a batch. Tickets use the sizes in turn."""
    users: int
    arrivals: tuple[Arrivals, ...] = ()
    turn: Turn | None = None
    flaw: Flaw = "none"
    slow_s: float = 0.0
    """The time over which a body is spread; 0: it is sent at once."""
    attempts: int = 1
    """The most times that a batch is sent until it is acknowledged, with the server's wait in between."""
    repeated: bool = False
    """Whether an acknowledged batch is sent again under its idempotency key, as if its response had been lost."""
    waits_once: bool = False
    """Whether its only user sends until it is rejected, waits as the server says, sends once more and stops."""

    def size(self, ticket: int) -> int:
        """Return how many events the batch of a ticket has."""
        return self.sizes[ticket % len(self.sizes)]

    def first_mark(self, ticket: int) -> int:
        """Return the mark of the first event of a ticket's batch."""
        return FIRST_MARK + self.number * LANE_MARKS + ticket * MAX_BATCH_EVENTS

    def due_s(self, ticket: int, now_s: float) -> float | None:
        """Return when a ticket is due, in seconds into the run; None if the lane has no such request."""
        if self.turn is not None:
            return max(now_s, self.turn.start_s) if now_s < self.turn.start_s + self.turn.seconds else None
        for arrivals in self.arrivals:
            if ticket < arrivals.count:
                return arrivals.start_s + (ticket / arrivals.rate if arrivals.rate else 0)
            ticket -= arrivals.count
        return None

    def phase(self, ticket: int) -> str:
        """Return the phase that a ticket belongs to; empty if the lane has no phases."""
        for arrivals in self.arrivals:
            if ticket < arrivals.count:
                return arrivals.phase
            ticket -= arrivals.count
        return ""


def ticket_of(mark: int) -> tuple[int, int, int]:
    """Return the parts of a mark: the lane's number, the ticket, and the position in the batch."""
    lane, rest = divmod(mark - FIRST_MARK, LANE_MARKS)
    return lane, *divmod(rest, MAX_BATCH_EVENTS)


class Plan(Struct, frozen=True, kw_only=True):
    """A run of Locust: the server's addresses and the lanes."""

    url: str
    grpc: str
    lanes: tuple[Lane, ...]
    response_timeout_s: float
    """The longest that a user waits for a response. After it the request's outcome is unknown."""

    @property
    def users(self) -> int:
        """The number of users of all lanes."""
        return sum(lane.users for lane in self.lanes)

    @property
    def seconds(self) -> float:
        """When the last request is due, in seconds into the run."""
        turns = (lane.turn.start_s + lane.turn.seconds for lane in self.lanes if lane.turn)
        last = (
            arrivals.start_s + (arrivals.count / arrivals.rate if arrivals.rate else 0)
            for lane in self.lanes
            for arrivals in lane.arrivals
        )
        return max((*turns, *last))

    def save(self, directory: Path) -> None:
        """Write the plan into the run's directory."""
        (directory / PLAN_FILE).write_bytes(msgspec.json.encode(self))

    @classmethod
    def load(cls, directory: Path) -> "Plan":
        """Read the plan of a run's directory."""
        return msgspec.json.decode((directory / PLAN_FILE).read_bytes(), type=cls)
