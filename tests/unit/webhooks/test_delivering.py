"""What becomes of deliveries, with an outbox in memory and receivers that are functions."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace

from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.jobs.store import JobLease
from server.core.webhooks.calls import Response
from server.core.webhooks.delivering import (
    CALLS_PER_TENANT,
    CALLS_PER_WEBHOOK,
    DISABLED,
    INTERNAL,
    MAX_CALLS,
    Delivering,
)
from server.core.webhooks.messages import deliveries_of
from server.core.webhooks.model import MAX_WEBHOOKS, Attempt, Delivery, Webhook
from server.core.webhooks.schedule import DELAYS_S
from server.core.webhooks.store import Busy
from tests.support.alerts import AT, alert, transition, webhook

pytestmark = pytest.mark.unit

LEASE = JobLease("webhook_deliveries", "me", 1)


class MemoryOutbox:
    """An outbox without a database. What is postponed is due no more."""

    def __init__(self, *webhooks: Webhook) -> None:
        self.known = {each.id: each for each in webhooks}
        self.pending: dict[UUID, Delivery] = {}
        self.notes: list[tuple[str, Attempt | None]] = []
        self.away = 0
        """How many notes fail."""

    def add(self, webhook_id: UUID, tries: int = 0) -> None:
        """Add a delivery that is due."""
        [made] = deliveries_of([self.known[webhook_id]], transition(alert()))
        self.pending[made.id] = replace(made, tries=tries)

    async def due(self, count: int, busy: Busy, in_flight: Collection[UUID], _: Deadline) -> Sequence[Delivery]:
        waiting = [each for each in self.pending.values() if not busy.holds(each) and each.id not in in_flight]
        return waiting[:count]

    async def webhooks(self, deliveries: Sequence[Delivery], _: Deadline) -> Mapping[UUID, Webhook]:
        return {each.webhook_id: self.known[each.webhook_id] for each in deliveries if each.webhook_id in self.known}

    async def wait_for_earlier(self, _: Delivery, __: Deadline) -> bool:
        return False

    async def delivered(self, delivery: Delivery, attempt: Attempt, _: Deadline) -> None:
        self._note(delivery, "delivered", attempt)

    async def postpone(self, delivery: Delivery, attempt: Attempt, delay_s: float, _: Deadline) -> None:
        self._note(delivery, f"again in {round(delay_s, -1):.0f} s", attempt)

    async def failed(self, delivery: Delivery, attempt: Attempt, *, gone: bool, deadline: Deadline) -> None:  # noqa: ARG002
        self._note(delivery, "gone" if gone else "failed", attempt)

    async def drop(self, delivery: Delivery, _: Deadline) -> None:
        self._note(delivery, "dropped", None)

    def _note(self, delivery: Delivery, note: str, attempt: Attempt | None) -> None:
        if self.away:
            self.away -= 1
            raise Unavailable
        del self.pending[delivery.id]
        self.notes.append((note, attempt))


class Calls:
    """Receivers, by their URL."""

    def __init__(self, respond: Callable[[str], Awaitable[Response]]) -> None:
        self.respond = respond
        self.now = Counter[str]()
        self.most = Counter[str]()
        self.made: list[Mapping[str, str]] = []

    async def post(self, url: str, headers: Mapping[str, str], _: bytes) -> Response:
        self.made.append(headers)
        self.now[url] += 1
        self.most[url] = max(self.most[url], self.now[url])
        try:
            return await self.respond(url)
        finally:
            self.now[url] -= 1


def deliver(outbox: MemoryOutbox, calls: Calls, until: Callable[[], bool]) -> None:
    """Deliver until a condition holds, for a minute at most."""

    async def scenario() -> None:
        running = asyncio.create_task(Delivering(outbox, calls).run(LEASE))
        async with asyncio.timeout(60):
            while not until():
                assert not running.done(), running
                await asyncio.sleep(0.01)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    asyncio.run(scenario())


def always(response: Response) -> Calls:
    async def respond(_: str) -> Response:
        return response

    return Calls(respond)


@pytest.mark.parametrize(
    ("response", "tries", "note"),
    [
        (Response(200), 0, "delivered"),
        (Response(299), 7, "delivered"),
        (Response(500, retry_after="100"), 0, "again in 100 s"),
        (Response(302, retry_after="100"), 0, "again in 100 s"),
        (Response(None, retry_after="100", error="no connection"), 0, "again in 100 s"),
        (Response(429, retry_after="99999999"), 0, f"again in {DELAYS_S[-1]:.0f} s"),
        (Response(500), 7, "failed"),
        (Response(500, retry_after="100"), 7, "failed"),
        (Response(410), 0, "gone"),
    ],
)
def test_what_follows_from_a_response(response: Response, tries: int, note: str) -> None:
    hook = webhook()
    outbox = MemoryOutbox(hook)
    outbox.add(hook.id, tries)
    deliver(outbox, always(response), lambda: bool(outbox.notes))
    [(noted, attempt)] = outbox.notes
    assert noted == note
    assert attempt is not None
    assert (attempt.status, attempt.error is None) == (response.status, note == "delivered")


def test_a_disabled_webhook_is_not_called() -> None:
    hook = replace(webhook(), disabled_at=AT)
    outbox, calls = MemoryOutbox(replace(hook, disabled_at=None)), always(Response(200))
    outbox.add(hook.id)
    outbox.known[hook.id] = hook
    deliver(outbox, calls, lambda: bool(outbox.notes))
    [(noted, attempt)] = outbox.notes
    assert (noted, attempt.error if attempt else None) == ("failed", DISABLED)
    assert calls.made == []


def test_what_is_for_a_deleted_webhook_is_dropped() -> None:
    hook = webhook()
    outbox = MemoryOutbox(hook)
    outbox.add(hook.id)
    outbox.known.clear()
    deliver(outbox, always(Response(200)), lambda: bool(outbox.notes))
    assert outbox.notes == [("dropped", None)]


def test_if_the_result_cannot_be_noted_it_is_sent_again() -> None:
    hook = webhook()
    outbox, calls = MemoryOutbox(hook), always(Response(200))
    outbox.add(hook.id)
    outbox.away = 2
    deliver(outbox, calls, lambda: bool(outbox.notes))
    assert len(calls.made) == 3
    assert len({headers["webhook-id"] for headers in calls.made}) == 1


def test_an_internal_error_stops_no_other_delivery() -> None:
    broken, good = webhook(uuid4(), "broken"), webhook(uuid4(), "good")
    outbox = MemoryOutbox(broken, good)
    outbox.add(broken.id)
    outbox.add(good.id)

    async def respond(url: str) -> Response:
        if url == "broken":
            raise ZeroDivisionError
        await asyncio.sleep(0.05)
        return Response(200)

    calls = Calls(respond)
    deliver(outbox, calls, lambda: len(outbox.notes) == 2)
    [(later, attempt), (delivered, _)] = outbox.notes
    assert (later[:8], attempt.error if attempt else None) == ("again in", INTERNAL)
    assert delivered == "delivered"
    assert len(calls.made) == 2


def test_a_slow_receiver_delays_no_other() -> None:
    slow, *others = [webhook(uuid4(), url) for url in ("slow", *map(str, range(10)))]
    outbox = MemoryOutbox(slow, *others)
    for _ in range(3 * MAX_CALLS):
        outbox.add(slow.id)
    for other in others:
        for _ in range(10):
            outbox.add(other.id)

    async def respond(url: str) -> Response:
        await asyncio.sleep(timedelta(hours=1).total_seconds() if url == "slow" else 0.001)
        return Response(200)

    calls = Calls(respond)
    deliver(outbox, calls, lambda: len(outbox.notes) == 100)
    assert {note for note, _ in outbox.notes} == {"delivered"}
    assert calls.most["slow"] == CALLS_PER_WEBHOOK
    assert max(calls.most.values()) == CALLS_PER_WEBHOOK
    assert len(outbox.pending) == 3 * MAX_CALLS


def test_a_tenant_whose_receivers_are_all_slow_delays_no_other() -> None:
    tenant_id, others = uuid4(), [webhook(uuid4(), str(number)) for number in range(10)]
    slow = [webhook(tenant_id, f"slow {number}") for number in range(MAX_WEBHOOKS)]
    outbox = MemoryOutbox(*slow, *others)
    for each in slow * MAX_CALLS + others:
        outbox.add(each.id)

    async def respond(url: str) -> Response:
        await asyncio.sleep(timedelta(hours=1).total_seconds() if url.startswith("slow") else 0.001)
        return Response(200)

    calls = Calls(respond)
    deliver(outbox, calls, lambda: len(outbox.notes) == len(others))
    assert {note for note, _ in outbox.notes} == {"delivered"}
    assert sum(count for url, count in calls.most.items() if url.startswith("slow")) == CALLS_PER_TENANT


def test_receivers_that_do_not_respond_leave_a_call_for_another_of_their_tenant() -> None:
    good, *silent = [webhook(UUID(int=1), str(number)) for number in range(MAX_WEBHOOKS)]
    outbox = MemoryOutbox(good, *silent)
    for each in [*silent * CALLS_PER_TENANT, good]:
        outbox.add(each.id)
    called = Counter[str]()

    async def respond(url: str) -> Response:
        called[url] += 1
        if url != good.url and called[url] > 1:
            await asyncio.sleep(timedelta(hours=1).total_seconds())
        return Response(200) if url == good.url else Response(None, error="it did not answer")

    deliver(outbox, Calls(respond), lambda: any(note == "delivered" for note, _ in outbox.notes))
