"""The ASGI application: every route, every error answer. Imports Litestar and the rest of `server.rest`."""

from litestar import Litestar
from litestar.enums import HttpMethod, ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from server.rest.events import event_routes
from server.rest.health import health_routes
from server.rest.openapi import schema_routes
from server.rest.problems import EXCEPTION_HANDLERS
from server.services import Services


def create_app(services: Services) -> ASGIApp:
    """The application that answers with `services`."""
    litestar = Litestar(
        route_handlers=[*event_routes(services), *health_routes(services), *schema_routes()],
        exception_handlers=EXCEPTION_HANDLERS,
        openapi_config=None,  # `server.rest.openapi` says more than handlers that read raw bodies can
        logging_config=None,
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # Litestar answers OPTIONS by itself. Keys are for servers: there is no CORS, and OPTIONS is not allowed.
        if scope["type"] == ScopeType.HTTP and scope["method"] == HttpMethod.OPTIONS:
            scope["method"] = "NONE"  # type: ignore[typeddict-item]
        await litestar(scope, receive, send)

    return app
