"""What Locust runs: a class of users for each lane of the plan, in the directory that `SLUICE_LOADTEST` names.

A user takes tickets of its lane until there are no more. It sends each when it is due, or at once where it is late;
latency counts from the due time, so that a server which makes callers wait cannot hide it by slowing them down.
Every answer goes into the ledger before the next request.
"""

import os
import time
import traceback
from collections import deque
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import gevent
import grpc.experimental.gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore
from locust import User, events, task
from locust.exception import StopUser

from loadtests.support.plan import PLAN_VARIABLE, Lane, Plan
from loadtests.support.records import Counter, Ledger, Record, begin, done_path, failures_path, tickets_path
from loadtests.support.templates import Template, idempotency_key
from loadtests.users.clients import Rest, Stream, Unary
from loadtests.users.responses import Answer

STREAM_WINDOW = 4
"""Batches under way on one stream: a client that waited for each answer would not need a stream."""

UNTOLD_WAIT_S = 1.0
"""Before a retry where the refusal named no wait that can be used."""

DIRECTORY = Path(os.environ[PLAN_VARIABLE])
PLAN = Plan.load(DIRECTORY)

SPARE_THREADS = 10
"""What gevent needs threads for besides: names to be resolved, for one."""


class Books:
    """The files that this process shares with others.

    Opened after Locust has forked: or else processes would share their positions in them, and take the same ticket.
    """

    def __init__(self) -> None:
        self.ledger = Ledger(DIRECTORY)
        self.done = Counter(done_path(DIRECTORY))
        self.tickets = {lane.number: Counter(tickets_path(DIRECTORY, lane.number)) for lane in PLAN.lanes}


@cache
def books() -> Books:
    """This process's: opened by its first user."""
    return Books()


class Refused(Exception):
    """Shown by Locust for an answer that is no receipt."""


class Sent:
    """A batch under way."""

    def __init__(self, ticket: int, due_s: float, sent_s: float, replayed: bool = False) -> None:
        self.ticket = ticket
        self.due_s = due_s
        self.sent_s = sent_s
        self.replayed = replayed


class LaneUser(User):
    """A user of a lane."""

    abstract = True
    lane: Lane
    templates: dict[int, Template]

    @task
    def use_up(self) -> None:
        """Send until the lane is done."""
        self.begun_s = begin(DIRECTORY)
        try:
            self.work()
        finally:
            books().done.next()
        raise StopUser

    def work(self) -> None:
        """Send what the lane has to send."""
        raise NotImplementedError

    def now_s(self) -> float:
        """Seconds into the run."""
        return time.monotonic() - self.begun_s

    def next_ticket(self) -> int:
        """A ticket of the lane that no other user has."""
        return books().tickets[self.lane.number].next()

    def next_due(self) -> tuple[int, float] | None:
        """The next ticket, once it is due, and when that was. None where there is none left."""
        ticket = self.next_ticket()
        due_s = self.lane.due_s(ticket, self.now_s())
        if due_s is None:
            return None
        time.sleep(max(0.0, due_s - self.now_s()))
        return ticket, due_s

    def body(self, ticket: int) -> bytes:
        """The batch of a ticket."""
        return self.templates[self.lane.size(ticket)].fill(self.lane.first_mark(ticket))

    def record(self, sent: Sent, answer: Answer) -> None:
        """Write down what became of a batch, and show Locust."""
        record = Record(
            lane=self.lane.number,
            ticket=sent.ticket,
            due_s=sent.due_s,
            sent_s=sent.sent_s,
            answered_s=self.now_s(),
            outcome=answer.outcome,
            status=answer.status,
            events=self.lane.size(sent.ticket),
            replayed=sent.replayed,
            wait_s=answer.wait_s,
            limit_headers=answer.limit_headers,
            tenant_id=answer.tenant_id,
            ids=answer.ids,
            detail=answer.detail,
        )
        books().ledger.write(record)
        self.environment.events.request.fire(
            request_type=self.lane.face,
            name=self.lane.name,
            response_time=record.latency_s * 1_000,
            response_length=0,
            exception=None if answer.outcome == "acknowledged" else Refused(f"{answer.status} {answer.outcome}"),
            context={},
        )


class CallUser(LaneUser):
    """A user who waits for each answer."""

    abstract = True

    def work(self) -> None:
        """Send the lane's tickets one after the other."""
        with closing(self.connect()) as self.face:
            if self.lane.patient:
                self.send_patiently()
                return
            while (due := self.next_due()) is not None:
                self.send_until_taken(*due)

    def connect(self) -> Rest | Unary:
        """A connection of this user's own."""
        raise NotImplementedError

    def send(self, ticket: int, due_s: float, replayed: bool = False) -> Answer:
        """Send a ticket's batch once."""
        body, key = self.body(ticket), idempotency_key(self.lane.first_mark(ticket)) if self.lane.repeated else ""
        sent = Sent(ticket, due_s, self.now_s(), replayed)
        answer = self.face.send(body, key)
        self.record(sent, answer)
        return answer

    def send_until_taken(self, ticket: int, due_s: float) -> None:
        """Send a ticket's batch, and again after a refusal that asks for it. What is to be repeated is sent twice."""
        answer = self.send(ticket, due_s)
        for _ in range(self.lane.attempts - 1):
            if not self.may_retry(answer):
                break
            time.sleep(answer.wait_s or UNTOLD_WAIT_S)
            answer = self.send(ticket, self.now_s())
        if self.lane.repeated and answer.outcome == "acknowledged":
            self.send(ticket, self.now_s(), replayed=True)

    def may_retry(self, answer: Answer) -> bool:
        """Whether to send again: not what was perhaps stored, unless an idempotency key makes it safe."""
        if answer.outcome in ("limited", "unavailable"):
            return True
        return self.lane.repeated and answer.outcome in ("uncertain", "broken")

    def send_patiently(self) -> None:
        """Send until refused; then wait as told, not a moment longer, and send once more."""
        while (due := self.next_due()) is not None:
            answer = self.send(*due)
            if answer.outcome != "acknowledged":
                time.sleep(answer.wait_s or 0)
                self.send(self.next_ticket(), self.now_s())
                return


class RestUser(CallUser):
    """Posts batches."""

    abstract = True

    def connect(self) -> Rest:
        """A keep-alive connection."""
        return Rest(PLAN.url, self.lane.key, PLAN.max_answer_s, self.lane.slow_s)


class UnaryUser(CallUser):
    """Makes unary calls."""

    abstract = True

    def connect(self) -> Unary:
        """A channel."""
        return Unary(PLAN.grpc, self.lane.key, PLAN.max_answer_s)


class StreamUser(LaneUser):
    """Keeps one stream open, and a few batches under way on it; a stream that breaks is opened anew."""

    abstract = True

    def work(self) -> None:
        """Open streams until the tickets are used up."""
        self.left: tuple[int, float] | None = self.next_due()
        while self.left is not None:
            self.stream_once()

    def stream_once(self) -> None:
        """Send over one stream until the tickets are used up or it ends."""
        stream, under_way, window = Stream(PLAN.grpc, self.lane.key), deque[Sent](), BoundedSemaphore(STREAM_WINDOW)
        ended = Event()

        def on_answer(answer: Answer) -> None:
            self.record(under_way.popleft(), answer)
            window.release()

        def read() -> None:
            ending = stream.receive(on_answer)
            ended.set()
            while under_way:  # these have no answer, and never will
                on_answer(ending)

        reader = gevent.spawn(read)
        while self.left is not None and window.acquire(timeout=PLAN.max_answer_s) and not ended.is_set():
            ticket, due_s = self.left
            body = self.body(ticket)
            under_way.append(Sent(ticket, due_s, self.now_s()))
            stream.send(body)
            self.left = self.next_due()
        stream.half_close()
        reader.join(timeout=PLAN.max_answer_s)
        stream.close()
        reader.join()


FACES: dict[str, type[LaneUser]] = {"rest": RestUser, "unary": UnaryUser, "stream": StreamUser}

for number, lane in enumerate(PLAN.lanes):
    attributes = {
        "lane": lane,
        "fixed_count": lane.users,
        "templates": {size: Template(lane, size) for size in sorted(set(lane.sizes))},
    }
    globals()[f"Lane{number}"] = type(f"Lane{number} {lane.name}", (FACES[lane.face],), attributes)


def prepare(**_: Any) -> None:
    """Make gRPC work under gevent. Once in each process, after Locust has forked and before any channel.

    Under gevent, a call and an open stream each hold a thread of the pool while they wait. Where the pool is too small,
    calls wait for each other, for seconds, and the server seems slow.
    """
    grpc.experimental.gevent.init_gevent()
    gevent.get_hub().threadpool.maxsize = PLAN.users + SPARE_THREADS


def note_failure(exception: Exception, **_: Any) -> None:
    """A user that fails is a fault of the load test, not of the server: the command must not overlook it."""
    with failures_path(DIRECTORY).open("a") as file:
        file.write("".join(traceback.format_exception(exception)))


events.init.add_listener(prepare)  # type: ignore[no-untyped-call]
events.user_error.add_listener(note_failure)  # type: ignore[no-untyped-call]
