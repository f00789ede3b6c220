"""Serves the metrics over HTTP, in the supervisor. So a scrape reaches no worker, and costs requests nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from socket import SO_REUSEADDR, socket
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry, make_asgi_app

from server.core.errors import ConfigurationError
from server.core.requests import Requests
from server.rest.http.protocol import HttpProtocol
from server.runtime.http_server import HttpServer, uvicorn_config
from server.runtime.ports import bound_socket, port_problem

MAX_REQUESTS = 16
"""Scrapes at a time. A usual server has one Prometheus, or two."""

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
    """The configuration of uvicorn. Our protocol class limits the size and the time of requests."""
    app, protocol = at_path(path, make_asgi_app(registry)), partial(HttpProtocol, requests=Requests())
    return uvicorn_config(app, protocol, limit_concurrency=MAX_REQUESTS, timeout_graceful_shutdown=CLOSE_TIMEOUT_S)


def at_path(path: str, app: Any) -> Any:
    """`app` at the path, and a 404 elsewhere."""
    body = f"The metrics are at {path}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]

    async def with_path(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == path:
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 404, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return with_path
