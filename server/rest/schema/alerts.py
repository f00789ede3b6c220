"""What the OpenAPI document says about alerts."""

from typing import get_args

from server.core.errors import Code
from server.core.rules.model import Severity
from server.rest.alerts import ALERTS_PATH, DEFAULT_ALERTS, MAX_ALERTS
from server.rest.schema.parts import ACCESS_CODES, Json, problem_responses, query, reference, success_response

UUID_SCHEMA: Json = {"type": "string", "format": "uuid"}

AGAIN = "It may be repeated: the first time counts."


def alert_paths() -> Json:
    """The paths of alerts."""
    return {
        ALERTS_PATH: {"get": list_alerts_operation()},
        ALERTS_PATH + "/{alert_id}": {"get": alert_operation("getAlert", "Get an alert", "What is known of it now.")},
        ALERTS_PATH + "/{alert_id}/acknowledge": {
            "post": alert_operation(
                "acknowledgeAlert", "Acknowledge an alert", f"Note that somebody has seen it. It stays open. {AGAIN}"
            )
        },
        ALERTS_PATH + "/{alert_id}/resolve": {
            "post": alert_operation(
                "resolveAlert",
                "Resolve an alert",
                f"If its rule still fires when it is evaluated next, another alert is opened. {AGAIN}",
            )
        },
    }


def list_alerts_operation() -> Json:
    """`GET /api/v1/alerts`."""
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_ALERTS, "default": DEFAULT_ALERTS}
    return {
        "operationId": "listAlerts",
        "summary": "List alerts, newest first",
        "description": "A rule that fires has one alert, which is open until the rule no longer fires, is deleted or "
        "disabled, or somebody resolves the alert. Meanwhile, each evaluation that fires gives it a new message, "
        "value, window and events.",
        "parameters": [
            query("is_resolved", {"type": "boolean"}, "Only alerts that are resolved, or only those that are open"),
            query("severity", {"type": "string", "enum": list(get_args(Severity))}, "Only alerts of this severity"),
            query("rule_id", UUID_SCHEMA, "Only alerts of this rule"),
            query("limit", limit, "How many"),
            query("cursor", UUID_SCHEMA, "Where the page starts: from the `Link` header of the page before"),
        ],
        "responses": {
            "200": {
                **success_response("The alerts", {"type": "array", "items": reference("AlertBody")}),
                "headers": {
                    "Link": {
                        "description": 'The next page, as `<URL>; rel="next"`. Without it, the list is at its end.',
                        "schema": {"type": "string"},
                    }
                },
            },
            **problem_responses((Code.INVALID_PARAMETER, Code.INVALID_HEADER, *ACCESS_CODES)),
        },
    }


def alert_operation(operation_id: str, summary: str, description: str) -> Json:
    """An operation on one alert, which responds with the alert as it is then."""
    return {
        "operationId": operation_id,
        "summary": summary,
        "description": description,
        "parameters": [{"name": "alert_id", "in": "path", "required": True, "schema": UUID_SCHEMA}],
        "responses": {
            "200": success_response("The alert", reference("AlertBody")),
            **problem_responses((Code.NOT_FOUND, Code.INVALID_PARAMETER, Code.INVALID_HEADER, *ACCESS_CODES)),
        },
    }
