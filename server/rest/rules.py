"""Rules of a tenant: makes, lists, changes, deletes and tries them."""

from http import HTTPStatus
from typing import Any
from uuid import UUID

from litestar.types import HTTPScope, Receive, Send
from msgspec import Struct

from server.core.deadline import Deadline
from server.core.rules.model import Evaluation, Rule, RuleState, RuleType, Severity
from server.core.rules.rules import NO_RULE
from server.core.times import format_time, from_milliseconds
from server.rest.events import encode_json
from server.rest.http.headers import credentials_of, headers_of
from server.rest.http.json_body import JsonBodies
from server.rest.http.responses import send_json, send_nothing
from server.rest.keyed import Handler, id_of, with_key
from server.rest.query import parse_query
from server.services import Services

RULES_PATH = "/api/v1/rules"
RULE_PATH = RULES_PATH + "/{rule_id:str}"


class RuleBody(Struct):
    """A rule."""

    id: str
    name: str
    rule_type: RuleType
    config: Any
    """A `Config`. msgspec has no schema for a union of structs, so `schema/rules.py` has it."""
    severity: Severity
    enabled: bool
    tags: list[str]
    category: str | None
    state: RuleState
    """What the last evaluation found."""
    evaluated_until: str
    """When it was last due; at first when it was made."""
    created_at: str
    updated_at: str


class EvaluationBody(Struct):
    """What a rule finds now."""

    would_fire: bool
    state: RuleState
    value: float | None
    """What is compared with the limit; null if there is no data."""
    message: str
    window_start: str
    window_end: str
    sample_size: int
    """Events that were looked at."""
    event_ids: list[str]
    """The first events for which it would fire, at most 5."""


def create_rule(services: Services, bodies: JsonBodies) -> Handler:
    """`POST /api/v1/rules`. It raises what `authenticate`, `JsonBodies.read` and `Rules.create` do."""

    async def handler(scope: HTTPScope, receive: Receive, send: Send) -> None:
        with services.requests.open("rest", is_read=True):
            tenant_id, value = await read(services, bodies, scope, receive)
            rule = await services.rules.create(tenant_id, value, Deadline())
            location = b"location", f"{RULES_PATH}/{rule.id}".encode()
            await send_json(send, encode_json(rule_body(rule)), HTTPStatus.CREATED, [location])

    return handler


def list_rules(services: Services) -> Handler:
    """`GET /api/v1/rules`. It raises InvalidParameter too."""

    async def respond(scope: HTTPScope, tenant_id: UUID, deadline: Deadline, send: Send) -> None:
        parse_query(scope["query_string"], ())
        async with services.rules.of_tenant(tenant_id, deadline) as rules:
            await send_json(send, encode_json(list(map(rule_body, rules))))

    return with_key(services, "rules:read", respond)


def get_rule(services: Services) -> Handler:
    """`GET /api/v1/rules/{rule_id}`."""

    async def respond(scope: HTTPScope, tenant_id: UUID, deadline: Deadline, send: Send) -> None:
        rule = await services.rules.get(tenant_id, rule_id_of(scope), deadline)
        await send_json(send, encode_json(rule_body(rule)))

    return with_key(services, "rules:read", respond)


def change_rule(services: Services, bodies: JsonBodies) -> Handler:
    """`PATCH /api/v1/rules/{rule_id}`. It raises what `authenticate`, `JsonBodies.read` and `Rules.change` do."""

    async def handler(scope: HTTPScope, receive: Receive, send: Send) -> None:
        with services.requests.open("rest", is_read=True):
            tenant_id, value = await read(services, bodies, scope, receive)
            rule = await services.rules.change(tenant_id, rule_id_of(scope), value, Deadline())
            await send_json(send, encode_json(rule_body(rule)))

    return handler


def delete_rule(services: Services) -> Handler:
    """`DELETE /api/v1/rules/{rule_id}`."""

    async def respond(scope: HTTPScope, tenant_id: UUID, deadline: Deadline, send: Send) -> None:
        await services.rules.delete(tenant_id, rule_id_of(scope), deadline)
        await send_nothing(send)

    return with_key(services, "rules:write", respond)


def evaluate_rule(services: Services) -> Handler:
    """`POST /api/v1/rules/{rule_id}/evaluate`. It changes nothing, so a key that may read may do it."""

    async def respond(scope: HTTPScope, tenant_id: UUID, deadline: Deadline, send: Send) -> None:
        evaluation = await services.rules.evaluate(tenant_id, rule_id_of(scope), deadline)
        await send_json(send, encode_json(evaluation_body(evaluation)))

    return with_key(services, "rules:read", respond)


async def read(services: Services, bodies: JsonBodies, scope: HTTPScope, receive: Receive) -> tuple[UUID, Any]:
    """The tenant whose rules a request may change, and its body. Raises what `authenticate` and `read` do."""
    headers = headers_of(scope)
    key = await services.admission.authenticate(credentials_of(headers), "rules:write", Deadline())
    return key.tenant_id, await bodies.read(headers, receive, dict[str, Any])


def rule_id_of(scope: HTTPScope) -> UUID:
    """The id of a rule in a path. Raises NotFound if it cannot be one."""
    return id_of(scope, "rule_id", NO_RULE)


def rule_body(rule: Rule) -> RuleBody:
    """A rule as it is shown."""
    return RuleBody(
        id=str(rule.id),
        name=rule.name,
        rule_type=rule.rule_type,
        config=rule.config,
        severity=rule.severity,
        enabled=rule.enabled,
        tags=list(rule.tags),
        category=rule.category,
        state=rule.state,
        evaluated_until=format_time(from_milliseconds(rule.evaluated_until_ms)),
        created_at=format_time(rule.created_at),
        updated_at=format_time(rule.updated_at),
    )


def evaluation_body(found: Evaluation) -> EvaluationBody:
    """An evaluation as it is shown."""
    return EvaluationBody(
        would_fire=found.state == "firing",
        state=found.state,
        value=found.value,
        message=found.message,
        window_start=format_time(from_milliseconds(found.window.start_ms)),
        window_end=format_time(from_milliseconds(found.window.end_ms)),
        sample_size=found.sample_size,
        event_ids=list(found.event_ids),
    )
