"""The load of a seed: users that send batches until they are told to stop.

A batch with a key is sent until it is acknowledged. It may be sent again over another protocol and to another host,
twice at once, before its first response, and long after it was acknowledged. One without a key is sent once. All users
are tasks of one thread.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from random import Random
from types import TracebackType
from typing import Self

from tests.faults.clients import Client, Rest, Stream, Unary
from tests.faults.ledger import Batch, Ledger
from tests.support.harness import Server, wait_until

CLIENTS = (Rest, Unary, Stream)

USERS = 16
"""More than the 12 clients (3 protocols, 2 hosts, 2 keys), so that streams have several batches in flight."""

SIZES = (1, 1, 7, 50, 100, 200, 300, 500)
"""Numbers of events in a batch, each as likely as it is frequent here."""

KEYED_SHARE = 0.8
"""The share of batches with an idempotency key."""

TWIN_SHARE = 0.05
"""The share of attempts under a key that are made twice at once."""

REPEAT_SHARE = 0.05
"""The share of turns after which an earlier batch is sent again, although it was acknowledged."""

RESPONSE_TIMEOUT_S = 20.0
"""How long users wait for a response: twice the time that the server has for a request."""

HASTY_USERS, HASTY_TIMEOUT_S = 4, 1.0
"""Some users wait for 1 s only. They retry while the server still works on the first attempt. And they notice at once
that the service works again, while the others still wait for earlier responses."""

PAUSE_S = 0.15
"""The longest pause of a user before its next batch. It leaves CPU time for elections."""

RETRY_PAUSE_S = 0.1
"""The pause after an attempt that was not acknowledged: a tenth of what the server asks for, for more attempts."""

SETTLE_S = 60
"""After the last fault, every batch with a key is acknowledged within this time."""

WORKS_AFTER = 5
"""Acknowledgements of new requests over each protocol that show that the service works."""

WORKS_WITHIN_S = 60
"""The service works again within this time, or it never will."""


class Load:
    """Sends batches to servers inside, with two keys of one tenant."""

    def __init__(self, seed: int, servers: Sequence[Server], secrets: Sequence[str], ledger: Ledger) -> None:
        self._seed = seed
        self._servers = servers
        self._secrets = secrets
        self._ledger = ledger
        self._is_over = False
        self._settle_by_s = float("inf")
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self._running = self._thread.submit(asyncio.run, self._run())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell the users to stop, and wait until they have."""
        self._settle_by_s = time.monotonic() + (SETTLE_S if kind is None else 0)
        self._is_over = True
        self._thread.shutdown()
        self._running.result()

    def wait_until_it_works(self) -> None:
        """Wait until new requests are acknowledged over every protocol."""
        begun_s = time.monotonic()
        wait_until(
            lambda: self._running.done() or self._works(begun_s), "acknowledgements over all protocols", WORKS_WITHIN_S
        )

    def _works(self, begun_s: float) -> bool:
        """Whether requests that were sent since then are acknowledged over every protocol."""
        return all(self._ledger.count_since(begun_s, client.name) >= WORKS_AFTER for client in CLIENTS)

    async def _run(self) -> None:
        """Run the users, on clients that they share."""
        async with AsyncExitStack() as stack:
            clients: list[Client] = []
            for server in self._servers:
                for secret in self._secrets:
                    clients += [Rest(server.url, secret), Unary(server.grpc, secret), Stream(server.grpc, secret)]
            for client in clients:
                stack.push_async_callback(client.close)
            async with asyncio.TaskGroup() as users:
                for number in range(USERS):
                    timeout_s = HASTY_TIMEOUT_S if number < HASTY_USERS else RESPONSE_TIMEOUT_S
                    user = User(Random(f"{self._seed}/{number}"), timeout_s, clients, self._ledger)
                    users.create_task(self._call(user))

    async def _call(self, user: "User") -> None:
        """Send one batch after the other for a user."""
        while not self._is_over:
            batch = user.new_batch()
            await user.attempt(batch)
            while batch.has_key and batch.receipt is None and time.monotonic() < self._settle_by_s:
                await asyncio.sleep(RETRY_PAUSE_S)
                await user.attempt(batch)
            await user.perhaps_repeat()
            await asyncio.sleep(user.random.random() * PAUSE_S)


class User:
    """A user that chooses at random what to send, and by which client."""

    def __init__(self, random: Random, timeout_s: float, clients: Sequence[Client], ledger: Ledger) -> None:
        self.random = random
        self._timeout_s = timeout_s
        self._clients = clients
        self._ledger = ledger

    def new_batch(self) -> Batch:
        """A batch to be sent."""
        return self._ledger.new_batch(self.random.choice(SIZES), has_key=self.random.random() < KEYED_SHARE)

    async def attempt(self, batch: Batch) -> None:
        """Send a batch by a random client, and now and then by two at once."""
        is_twin = batch.has_key and self.random.random() < TWIN_SHARE
        await asyncio.gather(*(self._send(batch) for _ in range(1 + is_twin)))

    async def perhaps_repeat(self) -> None:
        """Now and then, send an earlier batch again."""
        if self.random.random() < REPEAT_SHARE and (batch := self._ledger.earlier_batch(self.random)):
            await self._send(batch)

    async def _send(self, batch: Batch) -> None:
        client = self.random.choice(self._clients)
        begun_s = time.monotonic()
        response = await client.send(batch, self._timeout_s)
        self._ledger.record(batch, response, client.name, begun_s, time.monotonic())
