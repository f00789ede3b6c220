"""Lists alerts, gets one, acknowledges it, and resolves it."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple, cast, get_args
from urllib.parse import urlencode
from uuid import UUID

from litestar.types import HTTPScope, Send

from server.core.access.keys import Scope
from server.core.alerts.body import alert_body
from server.core.alerts.model import Alert
from server.core.alerts.store import NO_ALERT, AlertFilter
from server.core.deadline import Deadline
from server.core.errors import InvalidParameter
from server.core.rules.model import Severity
from server.rest.events import encode_json
from server.rest.http.responses import send_json
from server.rest.keyed import Handler, id_of, with_key
from server.rest.query import CANONICAL_ID, number, parse_query
from server.services import Services

ALERTS_PATH = "/api/v1/alerts"
ALERT_PATH = ALERTS_PATH + "/{alert_id:str}"

DEFAULT_ALERTS = 100
MAX_ALERTS = 1_000
"""Alerts on a page: 1 MB at most as a rule."""

PARAMETERS = ("is_resolved", "severity", "rule_id", "limit", "cursor")

BOOLEANS = {"true": True, "false": False}


class AlertPage(NamedTuple):
    """Which alerts to list."""

    where: AlertFilter
    limit: int
    below: UUID | None
    """The last alert of the page before; None for the first page."""


def list_alerts(services: Services) -> Handler:
    """`GET /api/v1/alerts`. It raises InvalidParameter too."""

    async def respond(scope: HTTPScope, tenant_id: UUID, deadline: Deadline, send: Send) -> None:
        values = parse_query(scope["query_string"], PARAMETERS)
        page = parse_page(values)
        async with services.alerts.page(tenant_id, page.where, page.below, page.limit, deadline) as found:
            fields = [link_to_next(values, found[-1])] if len(found) == page.limit else []
            await send_json(send, encode_json(list(map(alert_body, found))), headers=fields)

    return with_key(services, "rules:read", respond)


def get_alert(services: Services) -> Handler:
    """`GET /api/v1/alerts/{alert_id}`."""
    return for_one(services, "rules:read", services.alerts.get)


def acknowledge_alert(services: Services) -> Handler:
    """`POST /api/v1/alerts/{alert_id}/acknowledge`."""
    return for_one(services, "rules:write", services.alert_changes.acknowledge)


def resolve_alert(services: Services) -> Handler:
    """`POST /api/v1/alerts/{alert_id}/resolve`."""
    return for_one(services, "rules:write", services.alert_changes.resolve)


def for_one(services: Services, needed: Scope, call: Callable[[UUID, UUID, Deadline], Awaitable[Alert]]) -> Handler:
    """A handler that responds with the alert that `call` returns for a tenant and an id."""

    async def respond(scope: HTTPScope, tenant_id: UUID, deadline: Deadline, send: Send) -> None:
        parse_query(scope["query_string"], ())
        alert = await call(tenant_id, id_of(scope, "alert_id", NO_ALERT), deadline)
        await send_json(send, encode_json(alert_body(alert)))

    return with_key(services, needed, respond)


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
