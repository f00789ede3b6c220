"""Lists alerts, gets one, acknowledges it, and resolves it."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple, cast, get_args
from urllib.parse import urlencode
from uuid import UUID

from litestar.types import ASGIApp, HTTPScope, Receive, Send

from server.core.access.keys import Scope
from server.core.alerts.body import alert_body
from server.core.alerts.model import Alert
from server.core.alerts.store import AlertFilter
from server.core.deadline import Deadline
from server.core.errors import InvalidParameter, NotFound
from server.core.rules.model import Severity
from server.rest.events import encode_json
from server.rest.http.disconnect import for_present_client
from server.rest.http.headers import credentials_of, headers_of
from server.rest.http.responses import send_json
from server.rest.query import CANONICAL_ID, number, parse_query
from server.services import Services

ALERTS_PATH = "/api/v1/alerts"

DEFAULT_ALERTS = 100
MAX_ALERTS = 1_000
"""Alerts on a page: 1 MB at most as a rule."""

PARAMETERS = ("is_resolved", "severity", "rule_id", "limit", "cursor")

BOOLEANS = {"true": True, "false": False}

ById = Callable[[str], Awaitable[ASGIApp]]
"""A handler for the alert whose id is in the path."""


class AlertPage(NamedTuple):
    """Which alerts to list."""

    where: AlertFilter
    limit: int
    below: UUID | None
    """The last alert of the page before; None for the first page."""


def list_alerts(services: Services) -> Callable[[HTTPScope, Receive, Send], Awaitable[None]]:
    """`GET /api/v1/alerts`. It raises what `authenticate` does, InvalidParameter and Unavailable."""

    async def respond(scope: HTTPScope, send: Send) -> None:
        deadline = Deadline()
        key = await services.admission.authenticate(credentials_of(headers_of(scope)), "rules:read", deadline)
        values = parse_query(scope["query_string"], PARAMETERS)
        page = parse_page(values)
        async with services.alerts.page(key.tenant_id, page.where, page.below, page.limit, deadline) as found:
            fields = [link_to_next(values, found[-1])] if len(found) == page.limit else []
            await send_json(send, encode_json(list(map(alert_body, found))), headers=fields)

    return for_present_client(respond, services.requests)


def get_alert(services: Services) -> ById:
    """`GET /api/v1/alerts/{alert_id}`. It raises what `authenticate` does, NotFound and Unavailable."""
    return by_id(services, "rules:read", services.alerts.get)


def acknowledge_alert(services: Services) -> ById:
    """`POST /api/v1/alerts/{alert_id}/acknowledge`. It raises what `authenticate` does, NotFound and Unavailable."""
    return by_id(services, "rules:write", services.alert_changes.acknowledge)


def resolve_alert(services: Services) -> ById:
    """`POST /api/v1/alerts/{alert_id}/resolve`. It raises what `authenticate` does, NotFound and Unavailable."""
    return by_id(services, "rules:write", services.alert_changes.resolve)


def by_id(services: Services, scope_needed: Scope, call: Callable[[UUID, UUID, Deadline], Awaitable[Alert]]) -> ById:
    """A handler that responds with the alert that `call` returns for a tenant and an id."""

    async def handler(alert_id: str) -> ASGIApp:
        async def respond(scope: HTTPScope, send: Send) -> None:
            deadline = Deadline()
            key = await services.admission.authenticate(credentials_of(headers_of(scope)), scope_needed, deadline)
            parse_query(scope["query_string"], ())
            alert = await call(key.tenant_id, parse_id(alert_id), deadline)
            await send_json(send, encode_json(alert_body(alert)))

        return cast("ASGIApp", for_present_client(respond, services.requests))

    return handler


def parse_page(values: dict[str, str]) -> AlertPage:
    """The page that parameters ask for. Raises InvalidParameter."""
    is_resolved, severity = values.get("is_resolved"), values.get("severity")
    if is_resolved is not None and is_resolved not in BOOLEANS:
        raise InvalidParameter("is_resolved: must be true or false")
    if severity is not None and severity not in get_args(Severity):
        raise InvalidParameter(f"severity: must be one of {', '.join(get_args(Severity))}")
    where = AlertFilter(
        is_resolved=None if is_resolved is None else BOOLEANS[is_resolved],
        severity=cast("Severity | None", severity),
        rule_id=own_id(values, "rule_id", "the id of a rule"),
    )
    limit = number(values, "limit", default=DEFAULT_ALERTS, lowest=1, highest=MAX_ALERTS)
    return AlertPage(where, limit, own_id(values, "cursor", "the one in the Link header of a page"))


def own_id(values: dict[str, str], parameter: str, what: str) -> UUID | None:
    """A parameter that is an id. Raises InvalidParameter."""
    value = values.get(parameter)
    if value is not None and not CANONICAL_ID.fullmatch(value):
        raise InvalidParameter(f"{parameter}: must be {what}")
    return None if value is None else UUID(value)


def link_to_next(values: dict[str, str], last: Alert) -> tuple[bytes, bytes]:
    """The header that names the page after the one with these parameters (RFC 8288)."""
    query = urlencode({**values, "cursor": str(last.id)})
    return b"link", f'<{ALERTS_PATH}?{query}>; rel="next"'.encode()


def parse_id(text: str) -> UUID:
    """The id in a path. Raises NotFound if it cannot be an alert's id."""
    if not CANONICAL_ID.fullmatch(text):
        raise NotFound("This tenant has no alert with this id")
    return UUID(text)
