"""The health endpoints, for load balancers and orchestrators. Imports Litestar."""

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from server.rest.answers import json_response
from server.services import Services


def health_routes(services: Services) -> list[HTTPRouteHandler]:
    """`/health/live` says that the process works, `/health/ready` that it can take events."""

    @get("/health/live")
    async def live() -> Response[bytes]:
        return json_response({"status": "live"})

    @get("/health/ready")
    async def ready() -> Response[bytes]:
        await services.check_ready()
        return json_response({"status": "ready"})

    return [live, ready]
