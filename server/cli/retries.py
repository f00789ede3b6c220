"""Sends requests of commands again, over HTTP and gRPC, as long as the reason why they failed may pass."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from math import inf
from typing import TypeVar

from server.cli.remote import Retryable, Unreachable
from server.runtime.logs import announce

Result = TypeVar("Result")

FIRST_WAIT_S = 0.25
MAX_WAIT_S = 15.0
"""The wait doubles from the one to the other. An election or a restart of a server takes some seconds."""

JITTER = 0.25
"""The part of a wait that is added at random, so that clients do not all come back at once."""


class Retries:
    """Decides how long to wait before a request is sent again, and when to stop.

    Waits double until `succeeded` is called. The first of them is told on stderr with its reason.
    """

    def __init__(self, give_up_after_s: float = inf, say: Callable[[str], None] = announce) -> None:
        self._give_up_after_s = give_up_after_s
        self._say = say
        self._was_connected = False
        self._next_wait_s = FIRST_WAIT_S
        self._waited_s = 0.0

    async def run(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """What `attempt` returns, as soon as it does not raise Retryable. Raises RemoteError."""
        while True:
            try:
                return await attempt()
            except Retryable as error:
                await self.wait(error)

    def succeeded(self) -> None:
        """Something was reached: what fails from here on is another failure."""
        self._was_connected = True
        self._next_wait_s = FIRST_WAIT_S
        self._waited_s = 0.0

    async def wait(self, error: Retryable, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """Wait before the next attempt. Raises `error` if there should be none.

        There is none if the server was never reached, or if all waits since the last success take `give_up_after_s`.
        """
        self._was_connected = self._was_connected or not isinstance(error, Unreachable)
        if not self._was_connected or self._waited_s >= self._give_up_after_s:
            raise error
        if not self._waited_s:
            self._say(f"{error}: trying again")
        wait_s = max(self._next_wait_s, error.retry_after_s) * (1 + random.random() * JITTER)  # noqa: S311 (no secret)
        self._next_wait_s = min(self._next_wait_s * 2, MAX_WAIT_S)
        self._waited_s += wait_s
        await sleep(wait_s)
