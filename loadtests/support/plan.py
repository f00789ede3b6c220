"""What one run of Locust is to do, written by the command and read by Locust's processes. Imports a bound of the core.

A plan is a list of lanes. A lane is one line of a report: users of one face who send one kind of batch with one key.
Users share their lane's arrivals: each takes the next ticket, and the ticket's number says when it is due. So a lane
sends the same, and just as much, however Locust spreads its users over processes.

Every event carries a number of its own in `data.n`, made of lane, ticket and position, from which everything else
about the event follows.
"""

from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from server.core.events.model import MAX_BATCH_EVENTS

Face = Literal["rest", "unary", "stream"]

Flaw = Literal["none", "event", "json", "key"]
"""What is wrong with a lane's batches: nothing, one event of each, the whole body, or the key."""

PLAN_VARIABLE = "SLUICE_LOADTEST"
"""The environment variable that tells Locust's processes the run's directory."""

PLAN_FILE = "plan.json"

LANE_MARKS = 10**12
"""Marks of a lane: room for a billion tickets of 1,000 events."""

FIRST_MARK = 10**15
"""So that every mark has 16 digits and can be written into a ready-made body; all are integers exact in a double."""


class Arrivals(Struct, frozen=True):
    """`count` requests, the first due `start_s` into the run, `rate` of them a second; all at once where it is 0."""

    start_s: float
    count: int
    rate: float = 0.0
    phase: str = ""


class Turn(Struct, frozen=True):
    """Requests one after the other, as fast as the answers come, from `start_s` into the run for `seconds`."""

    start_s: float
    seconds: float


class Lane(Struct, frozen=True, kw_only=True):
    """Users of one face and one key. It has `arrivals` or a `turn`."""

    number: int
    """Unique within a load test, over all its plans."""
    name: str
    kind: str
    """What its latencies are counted under."""
    face: Face
    key: str
    tenant_id: str
    """In hexadecimal; empty where only the server knows."""
    source: str
    sizes: tuple[int, ...]
    """Events of a batch, ticket by ticket in turn."""
    users: int
    arrivals: tuple[Arrivals, ...] = ()
    turn: Turn | None = None
    flaw: Flaw = "none"
    slow_s: float = 0.0
    """How long a body takes to be sent."""
    attempts: int = 1
    """How often a batch is sent until it is taken, waiting as told in between."""
    repeated: bool = False
    """Whether a batch that was taken is sent again, with the same idempotency key, as one whose answer got lost."""
    patient: bool = False
    """Whether its one user sends until refused, waits as told, sends once more, and is done."""

    def size(self, ticket: int) -> int:
        """How many events the batch of a ticket has."""
        return self.sizes[ticket % len(self.sizes)]

    def first_mark(self, ticket: int) -> int:
        """The mark of the first event of a ticket's batch."""
        return FIRST_MARK + self.number * LANE_MARKS + ticket * MAX_BATCH_EVENTS

    def due_s(self, ticket: int, now_s: float) -> float | None:
        """When a ticket is due, in seconds into the run; None where the lane is done."""
        if self.turn is not None:
            return max(now_s, self.turn.start_s) if now_s < self.turn.start_s + self.turn.seconds else None
        for arrivals in self.arrivals:
            if ticket < arrivals.count:
                return arrivals.start_s + (ticket / arrivals.rate if arrivals.rate else 0)
            ticket -= arrivals.count
        return None

    def phase(self, ticket: int) -> str:
        """The phase that a ticket belongs to; empty where the lane has none."""
        for arrivals in self.arrivals:
            if ticket < arrivals.count:
                return arrivals.phase
            ticket -= arrivals.count
        return ""


def ticket_of(mark: int) -> tuple[int, int, int]:
    """The number of the lane, the ticket, and the position in the batch that a mark was made of."""
    lane, rest = divmod(mark - FIRST_MARK, LANE_MARKS)
    return lane, *divmod(rest, MAX_BATCH_EVENTS)


class Plan(Struct, frozen=True, kw_only=True):
    """A run of Locust: where to send, and the lanes."""

    url: str
    grpc: str
    lanes: tuple[Lane, ...]
    max_answer_s: float
    """How long a user waits for an answer before the request's outcome counts as unknown."""

    @property
    def users(self) -> int:
        """All users of all lanes."""
        return sum(lane.users for lane in self.lanes)

    @property
    def seconds(self) -> float:
        """When the last request is due."""
        turns = (lane.turn.start_s + lane.turn.seconds for lane in self.lanes if lane.turn)
        last = (
            arrivals.start_s + (arrivals.count / arrivals.rate if arrivals.rate else 0)
            for lane in self.lanes
            for arrivals in lane.arrivals
        )
        return max((*turns, *last))

    def save(self, directory: Path) -> None:
        """Write it where Locust's processes look for it."""
        (directory / PLAN_FILE).write_bytes(msgspec.json.encode(self))

    @classmethod
    def load(cls, directory: Path) -> "Plan":
        """Read it back."""
        return msgspec.json.decode((directory / PLAN_FILE).read_bytes(), type=cls)
