"""Stops work for a client that has gone away, since nobody would get its result, and breaks responses that fail midway.

A response that fails after its first byte must not look whole. So its connection ends, with what is not sent yet.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Never, TypeVar

from litestar.types import HTTPScope, Message, Receive, Send

from server.core.errors import ClientGone, SluiceError
from server.core.requests import Requests
from server.status import refusal_of

Result = TypeVar("Result")

ABORT = "sluice.abort"
"""The extension of a scope that ends its connection at once."""


def for_present_client(
    respond: Callable[[HTTPScope, Send], Coroutine[Any, Any, None]], requests: Requests
) -> Callable[[HTTPScope, Receive, Send], Awaitable[None]]:
    """A handler for reads that responds by `respond`, stops if the client goes away, and breaks a response that fails
    midway.
    """

    async def handler(scope: HTTPScope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def noting_send(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        with suppress(ClientGone):
            try:
                with requests.open("rest", is_read=True):
                    await unless_gone(respond(scope, noting_send), receive)
            except SluiceError as error:
                if not has_begun:
                    raise
                refusal_of(error)  # which logs it
                abort: Any = (scope["extensions"] or {})[ABORT]
                abort()
                await raise_when_gone(receive)

    return handler


async def unless_gone(work: Coroutine[Any, Any, Result], receive: Receive) -> Result:
    """The result of `work`, which is cancelled if the client goes away. Raises what it raises, and ClientGone.

    What is left of the request's body is read and dropped.
    """
    return await unless_raised(work, raise_when_gone(receive))


async def unless_raised(work: Coroutine[Any, Any, Result], watch: Coroutine[Any, Any, Never]) -> Result:
    """The result of `work`, which is cancelled when `watch` raises. Raises what either raises."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(watch)
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else watching.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
        del working, watching  # or what is raised here would hold itself, and all that the work held


async def raise_when_gone(receive: Receive) -> Never:
    """Raises ClientGone when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
    raise ClientGone
