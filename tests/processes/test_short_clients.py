"""A client that is opened for a few operations leaves no socket behind."""

import asyncio
import gc
import random
from pathlib import Path
from typing import Any

from storage.client import opened
from tests.support.mongod import Mongod

CLIENTS = 20
LONGEST_CONNECT_S = 0.02


class SlowConnects(asyncio.SelectorEventLoop):
    """Connects as slowly as a busy machine now and then does."""

    async def sock_connect(self, sock: Any, address: Any) -> None:
        await super().sock_connect(sock, address)
        await asyncio.sleep(random.uniform(0, LONGEST_CONNECT_S))


def test_no_socket_is_left(tmp_path: Path) -> None:
    async def use(url: str) -> None:
        async with opened(url, "pymongo") as client:
            await client.admin.command("ping")

    with Mongod(tmp_path / "mongod") as mongod:
        for _ in range(CLIENTS):
            with asyncio.Runner(loop_factory=SlowConnects) as runner:
                runner.run(use(mongod.url))
        gc.collect()  # a socket that was not closed warns when it is freed
