"""uvicorn's server, as the processes of Sluice run it."""

import contextlib
import socket
from collections.abc import Callable
from typing import Any

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


def uvicorn_config(app: Any, protocol: Any, **limits: int) -> uvicorn.Config:
    """The configuration of uvicorn: `app` over our own protocol class, and nothing of uvicorn that is not used."""
    return uvicorn.Config(
        app,
        interface="asgi3",  # uvicorn would take a function that only returns an awaitable for an older interface
        http=protocol,
        ws="none",
        proxy_headers=False,
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        **limits,  # type: ignore[arg-type]  # all of them are numbers
    )
