"""What Locust runs: a class of users for each lane of the plan in the directory that `SLUICE_LOADTEST` names.

A user takes tickets of its lane until there are no more. It sends each request when it is due, or at once if that time
has passed. Latency counts from the due time. So a slow server cannot hide its slowness by slowing its clients down.
Every response is in the ledger before the next request is sent.
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
from loadtests.support.records import Counter, Ledger, Record, done_path, failures_path, start_time_s, tickets_path
from loadtests.support.templates import Template, idempotency_key
from loadtests.users.clients import Rest, Stream, Unary
from loadtests.users.responses import Response

STREAM_WINDOW = 4
"""Batches in flight on one stream: a client that waits for each response does not need a stream."""

UNTOLD_WAIT_S = 1.0
"""The wait before a retry if the response named no usable one."""

DIRECTORY = Path(os.environ[PLAN_VARIABLE])
PLAN = Plan.load(DIRECTORY)

SPARE_THREADS = 10
"""Threads that gevent needs for other work, such as the resolution of names."""


class SharedFiles:
    """The files that Locust's processes share.

    They are opened after Locust has forked. Otherwise processes would share the position in a file, and take the same
    ticket.
    """

    def __init__(self) -> None:
        self.ledger = Ledger(DIRECTORY)
        self.done = Counter(done_path(DIRECTORY))
        self.tickets = {lane.number: Counter(tickets_path(DIRECTORY, lane.number)) for lane in PLAN.lanes}


@cache
def shared_files() -> SharedFiles:
    """Return the files of this process, which its first user opens."""
    return SharedFiles()


class NotAcknowledged(Exception):
    """What Locust's page shows for a response that is no receipt."""


class Sent:
    """A batch in flight. `replayed`: it was acknowledged before."""

    def __init__(self, ticket: int, due_s: float, sent_s: float, replayed: bool = False) -> None:
        self.ticket = ticket
        self.due_s = due_s
        self.sent_s = sent_s
        self.replayed = replayed


class LaneUser(User):
    """A user of a lane, whichever API it uses."""

    abstract = True
    lane: Lane
    templates: dict[int, Template]

    @task
    def run_lane(self) -> None:
        """Send requests until the lane has no more tickets, and stop."""
        self.started_s = start_time_s(DIRECTORY)
        try:
            self.send_all()
        finally:
            shared_files().done.next()
        raise StopUser

    def send_all(self) -> None:
        """Send the requests of this user."""
        raise NotImplementedError

    def now_s(self) -> float:
        """Return the seconds into the run."""
        return time.monotonic() - self.started_s

    def next_ticket(self) -> int:
        """Take a ticket of the lane that no other user has."""
        return shared_files().tickets[self.lane.number].next()

    def next_due(self) -> tuple[int, float] | None:
        """Wait until the next ticket is due. Returns it and its due time, or None if there is none left."""
        ticket = self.next_ticket()
        due_s = self.lane.due_s(ticket, self.now_s())
        if due_s is None:
            return None
        time.sleep(max(0.0, due_s - self.now_s()))
        return ticket, due_s

    def body(self, ticket: int) -> bytes:
        """Return the batch of a ticket, encoded."""
        return self.templates[self.lane.size(ticket)].fill(self.lane.first_mark(ticket))

    def record(self, sent: Sent, response: Response) -> None:
        """Write the outcome of a request into the ledger, and report it to Locust's page."""
        record = Record(
            lane=self.lane.number,
            ticket=sent.ticket,
            due_s=sent.due_s,
            sent_s=sent.sent_s,
            answered_s=self.now_s(),
            outcome=response.outcome,
            status=response.status,
            events=self.lane.size(sent.ticket),
            replayed=sent.replayed,
            wait_s=response.wait_s,
            limit_headers=response.limit_headers,
            tenant_id=response.tenant_id,
            ids=response.ids,
            detail=response.detail,
        )
        shared_files().ledger.write(record)
        acknowledged = response.outcome == "acknowledged"
        self.environment.events.request.fire(
            request_type=self.lane.api,
            name=self.lane.name,
            response_time=record.latency_s * 1_000,
            response_length=0,
            exception=None if acknowledged else NotAcknowledged(f"{response.status} {response.outcome}"),
            context={},
        )


class CallUser(LaneUser):
    """A user that waits for each response."""

    abstract = True

    def send_all(self) -> None:
        """Send the lane's tickets one after the other."""
        with closing(self.connect()) as self.connection:
            if self.lane.waits_once:
                self.send_until_rejected()
                return
            while (due := self.next_due()) is not None:
                self.send_until_acknowledged(*due)

    def connect(self) -> Rest | Unary:
        """Return a client with a connection of its own."""
        raise NotImplementedError

    def send(self, ticket: int, due_s: float, replayed: bool = False) -> Response:
        """Send a ticket's batch once."""
        body, key = self.body(ticket), idempotency_key(self.lane.first_mark(ticket)) if self.lane.repeated else ""
        sent = Sent(ticket, due_s, self.now_s(), replayed)
        response = self.connection.send(body, key)
        self.record(sent, response)
        return response

    def send_until_acknowledged(self, ticket: int, due_s: float) -> None:
        """Send a ticket's batch up to `attempts` times. If the lane repeats batches, send an acknowledged one again."""
        response = self.send(ticket, due_s)
        for _ in range(self.lane.attempts - 1):
            if not self.is_safe_to_retry(response):
                break
            time.sleep(response.wait_s or UNTOLD_WAIT_S)
            response = self.send(ticket, self.now_s())
        if self.lane.repeated and response.outcome == "acknowledged":
            self.send(ticket, self.now_s(), replayed=True)

    def is_safe_to_retry(self, response: Response) -> bool:
        """Whether a retry cannot store the batch twice: nothing was stored, or it has an idempotency key."""
        if response.outcome in ("limited", "unavailable"):
            return True
        return self.lane.repeated and response.outcome in ("uncertain", "broken")

    def send_until_rejected(self) -> None:
        """Send until a request is rejected. Then wait exactly as the response says, and send once more."""
        while (due := self.next_due()) is not None:
            response = self.send(*due)
            if response.outcome != "acknowledged":
                time.sleep(response.wait_s or 0)
                self.send(self.next_ticket(), self.now_s())
                return


class RestUser(CallUser):
    """A user that posts batches."""

    abstract = True

    def connect(self) -> Rest:
        """Return a client with a keep-alive connection."""
        return Rest(PLAN.url, self.lane.key, PLAN.response_timeout_s, self.lane.slow_s)


class UnaryUser(CallUser):
    """A user that makes unary calls."""

    abstract = True

    def connect(self) -> Unary:
        """Return a client with a channel."""
        return Unary(PLAN.grpc, self.lane.key, PLAN.response_timeout_s)


class StreamUser(LaneUser):
    """A user with one open stream and up to `STREAM_WINDOW` batches in flight. A stream that ends is opened again."""

    abstract = True

    def send_all(self) -> None:
        """Open one stream after the other until the tickets are used up."""
        self.next_request: tuple[int, float] | None = self.next_due()
        while self.next_request is not None:
            self.stream_once()

    def stream_once(self) -> None:
        """Send over one stream until the tickets are used up or the stream ends."""
        stream, in_flight, window = Stream(PLAN.grpc, self.lane.key), deque[Sent](), BoundedSemaphore(STREAM_WINDOW)
        ended = Event()

        def on_response(response: Response) -> None:
            self.record(in_flight.popleft(), response)
            window.release()

        def read() -> None:
            ending = stream.receive(on_response)
            ended.set()
            while in_flight:  # these batches will get no response
                on_response(ending)

        reader = gevent.spawn(read)
        while self.next_request is not None and window.acquire(timeout=PLAN.response_timeout_s) and not ended.is_set():
            ticket, due_s = self.next_request
            body = self.body(ticket)
            in_flight.append(Sent(ticket, due_s, self.now_s()))
            stream.send(body)
            self.next_request = self.next_due()
        stream.half_close()
        reader.join(timeout=PLAN.response_timeout_s)
        stream.close()
        reader.join()


USER_CLASSES: dict[str, type[LaneUser]] = {"rest": RestUser, "unary": UnaryUser, "stream": StreamUser}

for number, lane in enumerate(PLAN.lanes):
    attributes = {
        "lane": lane,
        "fixed_count": lane.users,
        "templates": {size: Template(lane, size) for size in sorted(set(lane.sizes))},
    }
    globals()[f"Lane{number}"] = type(f"Lane{number} {lane.name}", (USER_CLASSES[lane.api],), attributes)


def prepare(**_: Any) -> None:
    """Make gRPC work under gevent. It must run once in each process, after Locust has forked and before any channel.

    Under gevent, a call and an open stream each hold a thread of the pool while they wait. If the pool is too small,
    calls wait seconds for each other, and the server seems slow.
    """
    grpc.experimental.gevent.init_gevent()
    gevent.get_hub().threadpool.maxsize = PLAN.users + SPARE_THREADS


def note_failure(exception: Exception, **_: Any) -> None:
    """Report a user that failed to the command. That is a bug of the load test, not of the server."""
    with failures_path(DIRECTORY).open("a") as file:
        file.write("".join(traceback.format_exception(exception)))


events.init.add_listener(prepare)  # type: ignore[no-untyped-call]
events.user_error.add_listener(note_failure)  # type: ignore[no-untyped-call]
