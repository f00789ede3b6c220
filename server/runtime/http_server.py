"""uvicorn's server, as the processes of Sluice run it."""

import contextlib
import socket
from collections.abc import Callable

import uvicorn


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handling, since each process has its own, and with a call once it accepts requests."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None] = lambda: None) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept requests, then call `on_started`."""
        await super().startup(sockets)
        self._on_started()

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """Leave signals alone."""
        return contextlib.nullcontext()
