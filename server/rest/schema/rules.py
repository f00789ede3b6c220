"""What the OpenAPI document says about rules."""

from server.core.errors import Code
from server.core.rules.config import CONFIGS
from server.core.rules.store import MAX_RULES
from server.rest.rules import RULES_PATH
from server.rest.schema.parts import ACCESS_CODES, Json, problem_responses, reference, success_response

COMMON_CODES = (Code.INVALID_HEADER, *ACCESS_CODES)

BODY_CODES = (
    Code.MALFORMED_JSON,
    Code.INVALID_PARAMETER,
    Code.CONFLICT,
    Code.PAYLOAD_TOO_LARGE,
    Code.UNSUPPORTED_MEDIA_TYPE,
)

EXAMPLE: Json = {
    "name": "few purchases",
    "rule_type": "threshold",
    "config": {"event_type": "purchase", "field": "count", "operator": "<", "value": 10, "window_minutes": 60},
    "severity": "critical",
}

CHANGE_EXAMPLE: Json = {"enabled": False}

RULE_ID: Json = {"name": "rule_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}

PATHS = (
    "A path names a field of `data` by names joined with dots. In an array, it goes on in each element: "
    "`items.price` is missing if one of the items has no price."
)

WINDOWS = (
    "Windows are by time of receipt, and end at the last whole minute that is complete: 15 s after its end, no event "
    "of it can still be stored, but by a late retry with an idempotency key."
)


def rule_paths() -> Json:
    """The operations on rules, by path."""
    one = RULES_PATH + "/{rule_id}"
    return {
        RULES_PATH: {"post": create_operation(), "get": list_operation()},
        one: {"get": get_operation(), "patch": change_operation(), "delete": delete_operation()},
        one + "/evaluate": {"post": evaluate_operation()},
    }


def complete_rule_schemas(components: Json) -> None:
    """Say what the types of rules do not say: the forms of `config`, and that a change may leave out any field."""
    config = {
        "anyOf": [reference(kind.__name__) for kind in CONFIGS.values()],
        "description": "As `rule_type` needs it",
    }
    for name in ("RuleFields", "RuleBody"):
        components[name]["properties"]["config"] = config
    components["RuleChange"] = {**components["RuleFields"], "title": "RuleChange", "required": []}


def create_operation() -> Json:
    """`POST /api/v1/rules`."""
    return {
        "operationId": "createRule",
        "summary": "Make a rule on stored events",
        "description": "It is evaluated every `--rules-interval`, by default 15 minutes. If it fires, an alert is "
        f"opened. {WINDOWS} {PATHS} `config.severity` counts as `severity`. A tenant has at most {MAX_RULES} rules.",
        "requestBody": body_of("RuleFields", EXAMPLE),
        "responses": {
            "201": {
                **success_response("The rule", reference("RuleBody")),
                "headers": {"Location": {"description": "Its path", "schema": {"type": "string"}}},
            },
            **problem_responses((*BODY_CODES, *COMMON_CODES)),
        },
    }


def list_operation() -> Json:
    """`GET /api/v1/rules`."""
    return {
        "operationId": "listRules",
        "summary": "List rules, oldest first",
        "responses": {
            "200": success_response("All rules", {"type": "array", "items": reference("RuleBody")}),
            **problem_responses((Code.INVALID_PARAMETER, *COMMON_CODES)),
        },
    }


def get_operation() -> Json:
    """`GET /api/v1/rules/{rule_id}`."""
    return {
        "operationId": "getRule",
        "summary": "Get one rule",
        "parameters": [RULE_ID],
        "responses": {
            "200": success_response("The rule", reference("RuleBody")),
            **problem_responses((Code.NOT_FOUND, *COMMON_CODES)),
        },
    }


def change_operation() -> Json:
    """`PATCH /api/v1/rules/{rule_id}`."""
    return {
        "operationId": "changeRule",
        "summary": "Change a rule",
        "description": "The fields that are given replace those of the rule, `config` as a whole. The open alert of a "
        "rule that becomes disabled is resolved. One that is enabled again is evaluated from then on.",
        "parameters": [RULE_ID],
        "requestBody": body_of("RuleChange", CHANGE_EXAMPLE),
        "responses": {
            "200": success_response("The rule as it became", reference("RuleBody")),
            **problem_responses((*BODY_CODES, Code.NOT_FOUND, *COMMON_CODES)),
        },
    }


def delete_operation() -> Json:
    """`DELETE /api/v1/rules/{rule_id}`."""
    return {
        "operationId": "deleteRule",
        "summary": "Delete a rule",
        "description": "Its open alert is resolved.",
        "parameters": [RULE_ID],
        "responses": {
            "204": {"description": "It is deleted"},
            **problem_responses((Code.NOT_FOUND, *COMMON_CODES)),
        },
    }


def evaluate_operation() -> Json:
    """`POST /api/v1/rules/{rule_id}/evaluate`."""
    return {
        "operationId": "evaluateRule",
        "summary": "Try a rule: what it finds now",
        "description": "It changes nothing. " + WINDOWS,
        "parameters": [RULE_ID],
        "responses": {
            "200": success_response("What it finds", reference("EvaluationBody")),
            **problem_responses((Code.NOT_FOUND, *COMMON_CODES)),
        },
    }


def body_of(schema: str, example: Json) -> Json:
    """A JSON body that is needed."""
    return {"required": True, "content": {"application/json": {"schema": reference(schema), "example": example}}}
