"""The ASGI application: the table of all routes."""

from collections.abc import Awaitable, Callable
from typing import cast

from litestar import Litestar, asgi, get
from litestar.enums import HttpMethod, ScopeType
from litestar.types import ASGIApp, AsyncAnyCallable, HTTPScope, Receive, Scope, Send

from server.core.errors import MethodNotAllowed
from server.rest.events import get_event, list_events
from server.rest.health import live, ready
from server.rest.http.problems import EXCEPTION_HANDLERS
from server.rest.ingest import ingest
from server.rest.schema.openapi import openapi_json, openapi_page
from server.services import Services


def create_app(services: Services) -> ASGIApp:
    """The application that answers with `services`."""
    litestar = Litestar(
        route_handlers=[
            # Plain ASGI: for a single event, Litestar's handling of arguments would cost as much as all the rest.
            asgi("/api/v1/events", copy_scope=False)(by_method(POST=ingest(services), GET=list_events(services))),
            get("/api/v1/events/{event_id:str}")(get_event(services)),
            get("/health/live")(live()),
            get("/health/ready")(ready(services)),
            get("/schema/openapi.json")(openapi_json()),
            get("/schema")(openapi_page()),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
        openapi_config=None,  # `schema/openapi.py` says more than Litestar can know of handlers that read raw bodies
        logging_config=None,
    )

    def app(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # Litestar answers OPTIONS by itself. Keys are for servers: there is no CORS, and OPTIONS is not allowed.
        if scope["type"] == ScopeType.HTTP and scope["method"] == HttpMethod.OPTIONS:
            scope["method"] = "NONE"  # type: ignore[typeddict-item]
        return litestar(scope, receive, send)

    return app


def by_method(**handlers: Callable[[HTTPScope, Receive, Send], Awaitable[None]]) -> AsyncAnyCallable:
    """An ASGI application that hands a request to the handler of its method. It raises MethodNotAllowed."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = cast("HTTPScope", scope)
        handler = handlers.get(request["method"])
        if handler is None:
            raise MethodNotAllowed(sorted(handlers))
        await handler(request, receive, send)

    return app
