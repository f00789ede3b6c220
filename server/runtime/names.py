"""Finds the addresses of the hosts of webhooks, each in a thread of its own.

The event loop would search in two threads. A name whose name server does not respond takes one for 10 s and more, so
two such names of any tenant would delay all other searches, also that for the database.
"""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread
from typing import Any

TIMEOUT_S = 3.0
"""How long the search for a new webhook may take. The addresses are checked again when the webhook is called."""

MAX_SEARCHES = 256
"""Searches at a time, and so threads: 64 calls may begin every 15 s, and each of their searches may take 60 s."""

NO_SUCH_NAME = {socket.EAI_NONAME, socket.EAI_NODATA}

Found = Sequence[tuple[Any, ...]]
"""Addresses as `socket.getaddrinfo` has them."""


class Names:
    """Searches for names as the system does. Those for one name at a time are one."""

    def __init__(self) -> None:
        self._searches: dict[tuple[str, int | None, int], asyncio.Future[Found]] = {}

    async def search(self, name: str, port: int | None = None, flags: int = 0) -> Found:
        """The addresses of a name. Raises OSError, of which `socket.gaierror` is one, and UnicodeError."""
        wanted = (name, port, flags)
        if wanted not in self._searches:
            if len(self._searches) >= MAX_SEARCHES:
                raise socket.gaierror(socket.EAI_AGAIN, "too many searches at a time")
            self._searches[wanted] = search = begin_search(name, port, flags)
            search.add_done_callback(lambda _: self._searches.pop(wanted))
        return await asyncio.shield(self._searches[wanted])


class SystemResolver:
    """Implements `Resolver` as the system resolves names."""

    def __init__(self) -> None:
        self._names = Names()

    async def addresses(self, name: str) -> Sequence[str] | None:
        """See `Resolver`."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                found = await self._names.search(name)
        except socket.gaierror as error:
            return [] if error.errno in NO_SUCH_NAME else None
        except (OSError, UnicodeError):
            return None
        return [str(endpoint[0]) for *_, endpoint in found]


def begin_search(name: str, port: int | None, flags: int) -> asyncio.Future[Found]:
    """Search for a name in a new thread. The end of the process does not wait for it."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Found] = loop.create_future()
    found.add_done_callback(asyncio.Future.exception)  # nobody may wait for it by then

    def search() -> None:
        try:
            result = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=flags)
        except Exception as error:  # noqa: BLE001 (it is raised where the future is awaited)
            end(found.set_exception, error)
        else:
            end(found.set_result, result)

    def end(settle: Any, outcome: object) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, outcome)

    Thread(target=search, name="search", daemon=True).start()
    return found
