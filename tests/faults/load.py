"""The load of a seed: callers that send batches until told to stop, and go on with those that have keys until they are
acknowledged. Imports the faces and the ledger.

A batch with a key may be sent again over another protocol and to another host, twice at once, before its first answer
has come, and long after it was acknowledged. One without a key is sent once. All are tasks of one thread of their own.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from random import Random
from types import TracebackType
from typing import Self

from tests.faults.faces import Face, Rest, Stream, Unary
from tests.faults.ledger import Batch, Ledger
from tests.support.harness import Server, wait_until

FACES = (Rest, Unary, Stream)

CALLERS = 16
"""More than the three faces of two hosts with two keys: streams have several batches under way."""

SIZES = (1, 1, 7, 50, 100, 200, 300, 500)
"""Events in a batch, each as often as it stands here."""

KEYED_SHARE = 0.8
"""Of all batches."""

TWIN_SHARE = 0.05
"""Of attempts under a key: so many are made twice at once."""

REPEAT_SHARE = 0.05
"""So often an earlier batch is sent again although it was acknowledged."""

PATIENCE_S = 20.0
"""How long callers wait for an answer: twice what the server has for a request."""

HASTY_CALLERS, HASTY_PATIENCE_S = 4, 1.0
"""So many of the callers wait for no longer than that: they retry while the server is still at work, and see at once
that the service is back, when the others still wait for what they asked before."""

PAUSE_S = 0.15
"""Callers wait so long at most before the next batch: what the machine has left is for elections."""

RETRY_PAUSE_S = 0.1
"""After an attempt that was not acknowledged: a tenth of what the server asks for, to try it the more."""

SETTLE_S = 60
"""When all has healed, every batch with a key is acknowledged within this."""

GOES_ON = 5
"""Acknowledgements of new requests over each face that show that the service goes on."""

GOES_ON_S = 60
"""The service goes on within this, or never."""


class Load:
    """Sends batches to servers while the block runs. It knows two keys of one tenant."""

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
        """Let every caller come to its end."""
        self._settle_by_s = time.monotonic() + (SETTLE_S if kind is None else 0)
        self._is_over = True
        self._thread.shutdown()
        self._running.result()

    def wait_until_it_goes_on(self) -> None:
        """Wait until requests that are sent from now on are acknowledged over every face."""
        begun_s = time.monotonic()
        wait_until(lambda: self._running.done() or self._goes_on(begun_s), "acknowledgements over all faces", GOES_ON_S)

    def _goes_on(self, begun_s: float) -> bool:
        """Whether requests that were sent since then are acknowledged over every face."""
        return all(self._ledger.count_since(begun_s, face.name) >= GOES_ON for face in FACES)

    async def _run(self) -> None:
        """Run the callers, on connections that they share."""
        async with AsyncExitStack() as stack:
            faces: list[Face] = []
            for server in self._servers:
                for secret in self._secrets:
                    faces += [Rest(server.url, secret), Unary(server.grpc, secret), Stream(server.grpc, secret)]
            for face in faces:
                stack.push_async_callback(face.close)
            async with asyncio.TaskGroup() as callers:
                for number in range(CALLERS):
                    patience_s = HASTY_PATIENCE_S if number < HASTY_CALLERS else PATIENCE_S
                    caller = Caller(Random(f"{self._seed}/{number}"), patience_s, faces, self._ledger)
                    callers.create_task(self._call(caller))

    async def _call(self, caller: "Caller") -> None:
        """Send batch after batch."""
        while not self._is_over:
            batch = caller.new_batch()
            await caller.attempt(batch)
            while batch.has_key and batch.receipt is None and time.monotonic() < self._settle_by_s:
                await asyncio.sleep(RETRY_PAUSE_S)
                await caller.attempt(batch)
            await caller.perhaps_repeat()
            await asyncio.sleep(caller.random.random() * PAUSE_S)


class Caller:
    """One caller, who decides by chance what to send, and where."""

    def __init__(self, random: Random, patience_s: float, faces: Sequence[Face], ledger: Ledger) -> None:
        self.random = random
        self._patience_s = patience_s
        self._faces = faces
        self._ledger = ledger

    def new_batch(self) -> Batch:
        """A batch to be sent."""
        return self._ledger.new_batch(self.random.choice(SIZES), has_key=self.random.random() < KEYED_SHARE)

    async def attempt(self, batch: Batch) -> None:
        """Send a batch to some host over some face; now and then to two at once."""
        is_twin = batch.has_key and self.random.random() < TWIN_SHARE
        await asyncio.gather(*(self._send(batch) for _ in range(1 + is_twin)))

    async def perhaps_repeat(self) -> None:
        """Now and then, send an earlier batch again."""
        if self.random.random() < REPEAT_SHARE and (batch := self._ledger.earlier_batch(self.random)):
            await self._send(batch)

    async def _send(self, batch: Batch) -> None:
        face = self.random.choice(self._faces)
        begun_s = time.monotonic()
        answer = await face.send(batch, self._patience_s)
        self._ledger.record(batch, answer, face.name, begun_s, time.monotonic())
