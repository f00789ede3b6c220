"""Serves the metrics over HTTP, in the supervisor. So a scrape reaches no worker, and costs requests nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from socket import SO_REUSEADDR, socket
from typing import Any, cast

import uvicorn
from prometheus_client import CollectorRegistry, make_asgi_app

from server.core.errors import (
    ConfigurationError,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    SluiceError,
    Unavailable,
)
from server.core.requests import Requests
from server.rest.http.begin import REQUEST, begin_http_request
from server.rest.http.problems import send_problem
from server.rest.http.protocol import IDLE_TIMEOUT_S, TOO_MANY, HttpProtocol
from server.runtime.http_server import HttpServer, uvicorn_config
from server.runtime.ports import bound_socket, port_problem

MAX_CONNECTIONS = 128
"""Connections at a time. A usual server has one Prometheus, or two. Each may hold a head of 64 KiB."""

METHODS = ("GET", "HEAD")

CLOSE_TIMEOUT_S = 1
"""How long the end of the server waits for a scrape."""


@asynccontextmanager
async def metrics_endpoint(host: str, port: int, path: str, registry: CollectorRegistry) -> AsyncIterator[int]:
    """Serve the metrics of `registry` at `path`. Yields the port, which is a free one if `port` is 0.

    Raises ConfigurationError if the port cannot be used.
    """
    listening = listening_socket(host, port)
    server = HttpServer(config_of(path, registry))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


def listening_socket(host: str, port: int) -> socket:
    """A socket that listens. Raises ConfigurationError if another program has the port."""
    try:
        listening = bound_socket(host, port, SO_REUSEADDR)
        try:
            listening.listen()
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise ConfigurationError(port_problem(host, port, "--metrics-port", error)) from None
    return listening


def config_of(path: str, registry: CollectorRegistry) -> uvicorn.Config:
    """The configuration of uvicorn. Our protocol class limits the size, the time and the number of requests."""
    app, protocol = at_path(path, make_asgi_app(registry)), partial(ScrapeProtocol, requests=Requests())
    return uvicorn_config(app, protocol, timeout_keep_alive=IDLE_TIMEOUT_S, timeout_graceful_shutdown=CLOSE_TIMEOUT_S)


class ScrapeProtocol(HttpProtocol):
    """One connection. If there are too many, the oldest of those that have no request to answer is closed.

    So no client keeps Prometheus from its metrics by connections that it opens and does not use.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request. If there are too many connections, close another one, or reject this one."""
        self.made_at = self.loop.time()
        super().connection_made(transport)
        if len(self.connections) <= MAX_CONNECTIONS or self.rejected or transport.is_closing():
            return
        others = cast("set[ScrapeProtocol]", self.connections - {self})
        oldest = min((each for each in others if each.is_answered()), key=lambda each: each.made_at, default=None)
        if oldest is None:
            self.reject(Unavailable(detail=TOO_MANY))
        else:
            self.connections.discard(oldest)  # it is gone in the next turn of the event loop
            oldest.transport.abort()


def at_path(path: str, app: Any) -> Any:
    """`app` for GET and HEAD of the path, and an error for all else."""

    async def with_path(scope: Any, receive: Any, send: Any) -> None:
        if REQUEST in scope["extensions"]:  # the protocol has answered it
            return
        begin_http_request(scope["headers"], scope["extensions"])
        try:
            if scope["path"] != path:
                raise NotFound(f"The metrics are at {path}")
            if scope["method"] not in METHODS:
                raise MethodNotAllowed(METHODS)
            await app(scope, receive, send)
        except UnicodeDecodeError:  # the library expects UTF-8
            await send_problem(send, MalformedRequest("The query or a header is not UTF-8"))
        except SluiceError as error:
            await send_problem(send, error)

    return with_path
