"""The health endpoints, for load balancers and orchestrators."""

from collections.abc import Awaitable, Callable

from litestar import Response

from server.rest.http.responses import json_response
from server.services import Services

Handler = Callable[[], Awaitable[Response[bytes]]]


def live() -> Handler:
    """`GET /health/live`: the process works."""

    async def handler() -> Response[bytes]:
        return json_response({"status": "live"})

    return handler


def ready(services: Services) -> Handler:
    """`GET /health/ready`: the worker can take events."""

    async def handler() -> Response[bytes]:
        await services.check_ready()
        return json_response({"status": "ready"})

    return handler
