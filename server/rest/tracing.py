"""The request that logs and traces know of an HTTP request, and its span.

The attributes are those of OpenTelemetry's semantic conventions for HTTP. None of them holds what a client wrote: no
query, no header, and of a path only what is the same for all requests of its route.
"""

import re
from collections.abc import Awaitable, Callable
from http import HTTPMethod, HTTPStatus
from typing import Any

from litestar import Litestar
from litestar.enums import ScopeType
from litestar.types import HTTPScope, Message, Receive, Scope, Send

from server.core.request_context import current_request
from server.core.tracing import Tracer
from server.rest.http.begin import REQUEST, begin_http_request
from server.status import STATUS

Application = Callable[[Scope, Receive, Send], Awaitable[None]]

TRACED_PATHS = "/api/"
"""Where the paths of routes begin that are traced: not health, which is asked for all the time."""

PARAMETER = re.compile(r"\{(\w+):\w+\}")
"""A parameter in the path of a route of Litestar."""

OTHER_METHOD = "_OTHER"
"""What the conventions call a method that HTTP does not have."""


class Routes:
    """Finds the route of a path."""

    def __init__(self, litestar: Litestar) -> None:
        paths = [route.path for route in litestar.routes if route.path.startswith(TRACED_PATHS)]
        self._fixed = {path for path in paths if not PARAMETER.search(path)}
        self._with_parameters = [
            (re.compile(PARAMETER.sub("[^/]+", path)), PARAMETER.sub(r"{\1}", path))
            for path in paths
            if path not in self._fixed
        ]

    def find(self, path: str) -> str | None:
        """The route of a path, such as `/api/v1/events/{event_id}`; None if it is not traced."""
        path = path.rstrip("/")
        if path in self._fixed:
            return path
        return next((route for pattern, route in self._with_parameters if pattern.fullmatch(path)), None)


def as_requests(app: Application, litestar: Litestar, tracer: Tracer | None) -> Application:
    """`app`, each of whose requests is one for logs and, with a tracer, for traces."""
    routes = Routes(litestar)

    def respond(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == ScopeType.HTTP:
            extensions: Any = scope["extensions"]
            if REQUEST in extensions:
                return leave_answered()
            begin_http_request(scope["headers"], extensions)
            if tracer is not None:
                return traced(tracer, routes, app, scope, receive, send)
        return app(scope, receive, send)

    return respond


async def leave_answered() -> None:
    """Do nothing for a request that the protocol has begun, since it has answered it: its body broke at once."""


async def traced(
    tracer: Tracer, routes: Routes, app: Application, scope: HTTPScope, receive: Receive, send: Send
) -> None:
    """Let `app` respond, in a span if the route of the request is traced and it is sampled."""
    request, route = current_request(), routes.find(scope["path"])
    if request is None or route is None:
        return await app(scope, receive, send)
    method = scope["method"] if scope["method"] in HTTPMethod.__members__ else OTHER_METHOD
    name = f"{'HTTP' if method == OTHER_METHOD else method} {route}"
    request.span = tracer.start_request(name, request.parent, attributes_of(scope, method, route))
    if request.span is None:
        return await app(scope, receive, send)
    status = 0

    async def noting_send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        await send(message)

    try:
        await app(scope, receive, noting_send)
    finally:
        if request.answered_with is not None:
            status = STATUS[request.answered_with.code].http.value
        error = str(status) if status >= HTTPStatus.INTERNAL_SERVER_ERROR else None
        request.end_span({"http.response.status_code": status} if status else {}, error)
    return None


def attributes_of(scope: HTTPScope, method: str, route: str) -> dict[str, str]:
    """What is known of a request when it begins."""
    attributes = {
        "http.request.method": method,
        "http.route": route,
        "url.scheme": scope["scheme"],
        "network.protocol.version": scope["http_version"],
    }
    return attributes if "{" in route else {**attributes, "url.path": route}
