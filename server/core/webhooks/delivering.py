"""Delivers what is due, in one worker of the deployment.

Theory of operation. A delivery is a document of the outbox, which is due at a time. A call of the receiver ends in one
update: it is delivered, it is due again later, or it has failed for good. If the worker dies in between, the delivery
is still due, and the next holder of the lease sends it again: the same id, the same body. So a receiver gets each at
least once, and knows a copy by its id.

Deliveries of one rule to one webhook are sent in the order in which they were made. Otherwise "resolved" could come
before an "opened" that failed at first, and the receiver would keep a wrong state.

Example: an alert opens while its receiver restarts, and resolves 3 s later.
1. `opened` is sent and refused: it is due again in 5 s.
2. `resolved` is due. `opened` is pending, so `resolved` becomes due a second after it.
3. `opened` is delivered, and `resolved` after it.

A receiver has at most CALLS_PER_WEBHOOK calls at a time, and one that did not respond to the last has one. A tenant has
at most CALLS_PER_TENANT, one for each of its webhooks. So receivers that do not respond delay no others.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from time import monotonic
from typing import Any, Never
from uuid import UUID

from server.core.cancellation import end_if_cancelled
from server.core.deadline import Deadline
from server.core.errors import Unavailable
from server.core.jobs.store import JobLease
from server.core.webhooks.calls import Calls, Response
from server.core.webhooks.model import MAX_WEBHOOKS, Attempt, Delivery, Webhook
from server.core.webhooks.schedule import DELAYS_S, delay_s
from server.core.webhooks.signatures import signed_headers
from server.core.webhooks.store import Busy, Outbox

MAX_CALLS = 64
"""Calls at a time. Each holds a body of some KB, and what is read of the response."""

CALLS_PER_WEBHOOK = 4

CALLS_PER_TENANT = MAX_WEBHOOKS

MAX_SILENT = 10_000
"""Webhooks that are known to be silent: 1 MB. Some may be deleted, so all are forgotten when there are more."""

POLL_S = 1.0
"""How often to look for what is due: one search of an index."""

PAUSE_S = 0.05
"""The shortest time between two looks, so that one search finds several deliveries."""

UNREADABLE = "The webhook cannot be read: the operator finds the cause in the server's log"

INTERNAL = "It could not be sent, or its result not be noted, since Sluice has a bug"

DISABLED = "The webhook is disabled, since its receiver said that it is gone (410): test it to enable it again"

log = logging.getLogger("sluice")


class Delivering:
    """Delivers what is due in an outbox."""

    def __init__(self, outbox: Outbox, calls: Calls, delays_s: Sequence[float] = DELAYS_S) -> None:
        self._outbox = outbox
        self._calls = calls
        self._delays_s = delays_s
        self._in_flight: dict[UUID, Delivery] = {}
        """The deliveries that are being sent, by id."""
        self._silent = set[UUID]()
        """The webhooks whose last call got no response."""
        self._ended = asyncio.Event()

    async def run(self, _: JobLease) -> Never:
        """Deliver until this is cancelled. It may run twice at a time, so it needs no fencing number."""
        async with asyncio.TaskGroup() as group:
            while True:
                with suppress(Unavailable):  # which the driver adapter has logged
                    await self._start_due(group)
                end_if_cancelled()
                await self._pause()

    async def _start_due(self, group: asyncio.TaskGroup) -> None:
        """Start to send what is due, as far as there is capacity. Raises Unavailable."""
        free = MAX_CALLS - len(self._in_flight)
        if not free:
            return
        deadline = Deadline()
        found = await self._outbox.due(free, self._busy(), self._in_flight, deadline)
        webhooks = await self._outbox.webhooks(found, deadline) if found else {}
        for delivery in found:
            if not self._busy().holds(delivery):
                self._in_flight[delivery.id] = delivery
                task = group.create_task(self._deliver(delivery, webhooks))
                task.add_done_callback(partial(self._end, delivery.id))

    def _busy(self) -> Busy:
        """Who has as many calls as they may have."""
        webhooks = Counter(each.webhook_id for each in self._in_flight.values())
        tenants = Counter(each.tenant_id for each in self._in_flight.values())
        silent = [each for each in webhooks if each in self._silent]
        return Busy(silent + at_least(CALLS_PER_WEBHOOK, webhooks), at_least(CALLS_PER_TENANT, tenants))

    def _end(self, delivery_id: UUID, _: Any) -> None:
        del self._in_flight[delivery_id]
        self._ended.set()

    async def _pause(self) -> None:
        """Wait until a call has ended, or until it is time to look again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._ended.wait()
        self._ended.clear()
        await asyncio.sleep(PAUSE_S)

    async def _deliver(self, delivery: Delivery, webhooks: Mapping[UUID, Webhook | None]) -> None:
        """Send a delivery and note what came of it. If the database is away, it stays due, and is sent again.

        After an internal error it is due again later, so that it stops no other delivery.
        """
        with suppress(Unavailable):
            try:
                await self._try(delivery, webhooks)
            except Unavailable:
                raise
            except Exception:
                log.exception("internal error")
                await self._note_unsent(delivery, INTERNAL)

    async def _try(self, delivery: Delivery, webhooks: Mapping[UUID, Webhook | None]) -> None:
        """Send a delivery, if it is to be sent now, and note what came of it. Raises Unavailable."""
        deadline = Deadline()
        if delivery.webhook_id not in webhooks:
            self._silent.discard(delivery.webhook_id)
            await self._outbox.drop(delivery, deadline)
        elif (webhook := webhooks[delivery.webhook_id]) is None:
            await self._note_unsent(delivery, UNREADABLE)
        elif webhook.disabled_at is not None and delivery.event != "webhook.test":
            unsent = attempt_of(Response(None, error=DISABLED), datetime.now(UTC), 0)
            await self._outbox.failed(delivery, unsent, gone=False, deadline=deadline)
        elif not await self._outbox.wait_for_earlier(delivery, deadline):
            await self._send(delivery, webhook)

    async def _send(self, delivery: Delivery, webhook: Webhook) -> None:
        """Call the receiver, and note what came of it. Raises Unavailable."""
        now, started = datetime.now(UTC), monotonic()
        headers = signed_headers(str(delivery.id), delivery.body, webhook.secrets, now)
        response = await self._calls.post(webhook.url, headers, delivery.body)
        self._silent.discard(webhook.id)
        if response.status is None:
            if len(self._silent) >= MAX_SILENT:
                self._silent.clear()
            self._silent.add(webhook.id)
        await self._note(delivery, attempt_of(response, now, monotonic() - started), response)

    async def _note_unsent(self, delivery: Delivery, error: str) -> None:
        """Note a failed attempt without a call, since its cause may be corrected meanwhile. Raises Unavailable."""
        response = Response(None, error=error)
        await self._note(delivery, attempt_of(response, datetime.now(UTC), 0), response)

    async def _note(self, delivery: Delivery, attempt: Attempt, response: Response) -> None:
        """Note what came of an attempt. Raises Unavailable."""
        deadline = Deadline()
        gone = attempt.status == HTTPStatus.GONE
        delay = delay_s(delivery.tries + 1, response.retry_after, attempt.at, self._delays_s)
        if attempt.error is None:
            await self._outbox.delivered(delivery, attempt, deadline)
        elif gone or delay is None:
            await self._outbox.failed(delivery, attempt, gone=gone, deadline=deadline)
        else:
            await self._outbox.postpone(delivery, attempt, delay, deadline)


def at_least(count: int, calls: Counter[UUID]) -> list[UUID]:
    """Those that have at least `count` calls."""
    return [each for each, number in calls.items() if number >= count]


def attempt_of(response: Response, at: datetime, duration_s: float) -> Attempt:
    """What is kept of a call that was made at this time."""
    return Attempt(
        at=at,
        duration_ms=round(duration_s * 1_000),
        status=response.status,
        response=response.body.decode(errors="replace"),
        error=error_of(response),
    )


def error_of(response: Response) -> str | None:
    """Why a call has failed; None if it succeeded. Only 2xx is success."""
    if response.error or response.status is None:
        return response.error
    if HTTPStatus(200) <= response.status < HTTPStatus(300):
        return None
    if HTTPStatus(300) <= response.status < HTTPStatus(400):
        return f"The receiver answered {response.status}, and redirects are not followed: give the webhook the new URL"
    return f"The receiver answered {response.status}"
