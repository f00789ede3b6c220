"""The ASGI application: the table of all routes, and what holds for all of them."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, cast

from litestar import Litestar, asgi, delete, get, patch, post
from litestar.config.app import AppConfig
from litestar.enums import HttpMethod, ScopeType
from litestar.types import ASGIApp, AsyncAnyCallable, HTTPScope, Receive, Scope, Send

from server.core.errors import ClientGone, MethodNotAllowed
from server.rest.alerts import ALERT_PATH, ALERTS_PATH, acknowledge_alert, get_alert, list_alerts, resolve_alert
from server.rest.event_types import list_event_types
from server.rest.events import get_event, list_events
from server.rest.health import live, ready
from server.rest.http.json_body import JsonBodies
from server.rest.http.problems import exception_handlers, on_error
from server.rest.ingest import ingest
from server.rest.rejections import list_rejections
from server.rest.rules import (
    RULE_PATH,
    RULES_PATH,
    change_rule,
    create_rule,
    delete_rule,
    evaluate_rule,
    get_rule,
    list_rules,
)
from server.rest.schema.openapi import openapi_json
from server.rest.schema.page import FILES_PATH, schema_file, schema_page, to_schema
from server.rest.tail import TAIL_PATH, tail_events
from server.rest.tracing import as_requests
from server.rest.usage import show_usage
from server.rest.webhooks import (
    create_webhook,
    delete_webhook,
    get_webhook,
    list_deliveries,
    list_webhooks,
    resend_delivery,
    rotate_webhook,
    test_webhook,
)
from server.services import Services

EVENTS_PATH = "/api/v1/events"
WEBHOOKS_PATH = "/api/v1/webhooks"
WEBHOOK_PATH = WEBHOOKS_PATH + "/{webhook_id:str}"

UNCOUNTED: dict[int | type[Exception], Any] = {Exception: on_error}
"""Makes the responses to errors that are no outcome of a request: health is asked for all the time."""


def create_app(services: Services) -> ASGIApp:
    """The application that answers with `services`."""
    store_batch, bodies = ingest(services), JsonBodies()
    litestar = Router(
        route_handlers=[
            # Plain ASGI: for a single event, Litestar's handling of arguments would cost as much as all the rest.
            asgi(EVENTS_PATH, copy_scope=False)(by_method(POST=store_batch, GET=list_events(services))),
            asgi(TAIL_PATH, copy_scope=False)(by_method(GET=tail_events(services))),
            get(EVENTS_PATH + "/{event_id:str}")(get_event(services)),
            asgi("/api/v1/event-types", copy_scope=False)(by_method(GET=list_event_types(services))),
            asgi("/api/v1/rejections", copy_scope=False)(by_method(GET=list_rejections(services))),
            asgi("/api/v1/usage", copy_scope=False)(by_method(GET=show_usage(services))),
            asgi(RULES_PATH, copy_scope=False)(by_method(POST=create_rule(services, bodies), GET=list_rules(services))),
            get(RULE_PATH)(routed(get_rule(services))),
            patch(RULE_PATH)(routed(change_rule(services, bodies))),
            delete(RULE_PATH, status_code=HTTPStatus.OK)(routed(delete_rule(services))),
            post(RULE_PATH + "/evaluate")(routed(evaluate_rule(services))),
            asgi(ALERTS_PATH, copy_scope=False)(by_method(GET=list_alerts(services))),
            get(ALERT_PATH)(routed(get_alert(services))),
            post(ALERT_PATH + "/acknowledge")(routed(acknowledge_alert(services))),
            post(ALERT_PATH + "/resolve")(routed(resolve_alert(services))),
            asgi(WEBHOOKS_PATH, copy_scope=False)(
                by_method(POST=create_webhook(services, bodies), GET=list_webhooks(services))
            ),
            get(WEBHOOK_PATH)(routed(get_webhook(services))),
            delete(WEBHOOK_PATH, status_code=HTTPStatus.OK)(routed(delete_webhook(services))),
            post(WEBHOOK_PATH + "/test")(routed(test_webhook(services))),
            post(WEBHOOK_PATH + "/rotate")(routed(rotate_webhook(services))),
            get(WEBHOOK_PATH + "/deliveries")(routed(list_deliveries(services))),
            post(WEBHOOK_PATH + "/deliveries/{delivery_id:str}/resend")(routed(resend_delivery(services))),
            get("/health/live")(live()),
            get("/health/ready", exception_handlers=UNCOUNTED)(ready(services)),
            get("/")(to_schema()),
            get("/schema/openapi.json")(openapi_json()),
            get("/schema")(schema_page()),
            get(FILES_PATH + "/{name:str}")(schema_file()),
        ],
        exception_handlers=exception_handlers(services.requests),
        openapi_config=None,  # `schema/openapi.py` says more than Litestar can know of handlers that read raw bodies
        logging_config=None,
    )

    post_batch = without_routing(store_batch, litestar)

    def app(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == ScopeType.HTTP:
            match scope["method"]:
                case HttpMethod.POST if scope["path"] == EVENTS_PATH:
                    return post_batch(scope, receive, send)
                case HttpMethod.HEAD:  # as GET, but uvicorn, which keeps its own scope, sends no body
                    extensions = {**(scope.get("extensions") or {}), HEAD: {}}
                    scope = cast("HTTPScope", {**scope, "method": HttpMethod.GET.value, "extensions": extensions})
                case HttpMethod.OPTIONS:  # Litestar would answer it, but there is no CORS: keys are for servers
                    scope["method"] = "NONE"  # type: ignore[typeddict-item]
                    if scope["path"] == "*":  # about the server as a whole: this path has all of its methods
                        scope["path"] = EVENTS_PATH
        return litestar(scope, receive, send)

    return as_requests(app, litestar, services.tracer)


def routed(handler: Callable[[HTTPScope, Receive, Send], Awaitable[None]]) -> Callable[[], Awaitable[ASGIApp]]:
    """`handler` for a path with parameters, which Litestar does not route to plain ASGI.

    The response has the status that the handler sends, whatever Litestar's would be.
    """

    async def respond() -> ASGIApp:
        return cast("ASGIApp", handler)

    return respond


class Router(Litestar):
    """Litestar, but it does not import what is installed of OpenTelemetry for a plugin that we do not use."""

    @staticmethod
    def _patch_opentelemetry_middleware(config: AppConfig) -> AppConfig:
        return config


RAISED = "sluice.raised"
"""The extension of a scope whose request was handled, and raised an error."""


def without_routing(
    handler: Callable[[HTTPScope, Receive, Send], Awaitable[None]], litestar: Litestar
) -> Callable[[HTTPScope, Receive, Send], Awaitable[None]]:
    """`handler`, whose requests Litestar sees only if they fail: it makes the responses of all errors.

    Its routing takes a twentieth of a request with a single event.
    """

    async def app(scope: HTTPScope, receive: Receive, send: Send) -> None:
        try:
            await handler(scope, receive, send)
        except Exception as error:  # noqa: BLE001 (the route raises it again)
            extensions: Any = {RAISED: error}
            await litestar(cast("HTTPScope", {**scope, "extensions": extensions}), receive, send)

    return app


HEAD = "sluice.head"
"""The extension of a scope whose request is HEAD."""


class HeadSent(ClientGone):
    """The head of a response is sent, and nobody asked for its body: as if the client had gone away then."""


def by_method(**handlers: Callable[[HTTPScope, Receive, Send], Awaitable[None]]) -> AsyncAnyCallable:
    """An ASGI application that hands a request to the handler of its method. It raises MethodNotAllowed."""
    allowed = sorted({*handlers, *(["HEAD"] if "GET" in handlers else [])})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = cast("HTTPScope", scope)
        handler = handlers.get(request["method"])
        extensions: dict[str, Any] = request.get("extensions") or {}
        if handler is None:
            raise MethodNotAllowed(allowed)
        if RAISED in extensions:
            raise extensions[RAISED]
        if HEAD in extensions:
            await send_head(handler, request, receive, send)
        else:
            await handler(request, receive, send)

    return app


async def send_head(
    handler: Callable[[HTTPScope, Receive, Send], Awaitable[None]], scope: HTTPScope, receive: Receive, send: Send
) -> None:
    """Let `handler` answer until it has sent the head. So a list is not read to its end."""

    async def send_until_body(message: Any) -> None:
        if message["type"] != "http.response.body":
            return await send(message)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        raise HeadSent

    try:
        await handler(scope, receive, send_until_body)
    except HeadSent:
        return
