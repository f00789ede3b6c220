"""Stops work for a client that has gone away: nobody would get its result."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Never, TypeVar

from litestar.types import Receive

from server.core.errors import ClientGone

Result = TypeVar("Result")


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


async def raise_when_gone(receive: Receive) -> Never:
    """Raises ClientGone when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
    raise ClientGone
