"""Finds the addresses of the hosts of new webhooks."""

import asyncio
import socket
from collections.abc import Sequence

TIMEOUT_S = 3.0
"""How long a search may take. The addresses are checked again when the webhook is called."""

NO_SUCH_NAME = {socket.EAI_NONAME, socket.EAI_NODATA}


class SystemResolver:
    """Implements `Resolver` as the system resolves names."""

    async def addresses(self, name: str) -> Sequence[str] | None:
        """See `Resolver`."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            return [] if error.errno in NO_SUCH_NAME else None
        except (OSError, UnicodeError):
            return None
        return [str(endpoint[0]) for *_, endpoint in found]
