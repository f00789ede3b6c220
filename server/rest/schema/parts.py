"""Parts of operations in the OpenAPI document: parameters, responses, and the errors that several of them have."""

from typing import Any

from server.core.errors import Code
from server.rest.http.problems import PROBLEM_JSON
from server.status import STATUS

Json = dict[str, Any]

WIRE_CODES = (Code.MALFORMED_REQUEST, Code.REQUEST_TIMEOUT, Code.HEADERS_TOO_LARGE)
"""Errors of any request, before its path is known."""

ACCESS_CODES = (Code.UNAUTHENTICATED, Code.INSUFFICIENT_SCOPE, Code.DOMAIN_NOT_ALLOWED, Code.UNAVAILABLE)

QUOTA_HEADERS: Json = {
    "RateLimit-Policy": {
        "description": 'Requests admitted in a window of w seconds, such as `"default";q=1000;w=60`; absent without a '
        "rate limit",
        "schema": {"type": "string"},
    },
    "RateLimit": {
        "description": 'Requests that remain, and seconds until there are more, such as `"default";r=998;t=61`',
        "schema": {"type": "string"},
    },
}


def problem_responses(codes: tuple[Code, ...] | list[Code]) -> Json:
    """The error responses for `codes` and WIRE_CODES, by status."""
    by_status: dict[str, list[Code]] = {}
    for code in (*WIRE_CODES, *codes):
        by_status.setdefault(str(STATUS[code].http.value), []).append(code)
    return {status: problem_response(sharing) for status, sharing in sorted(by_status.items())}


def problem_response(codes: list[Code]) -> Json:
    """The error response for codes that share a status."""
    response: Json = {
        "description": " or ".join(f"`{code}`" for code in codes),
        "content": {PROBLEM_JSON: {"schema": reference("ProblemBody")}},
        "headers": {"X-Request-ID": {"description": "The id in the server's log", "schema": {"type": "string"}}},
    }
    if Code.UNAUTHENTICATED in codes:
        response["headers"]["WWW-Authenticate"] = {"description": "The challenge", "schema": {"type": "string"}}
    if Code.UNSUPPORTED_MEDIA_TYPE in codes:
        response["headers"]["Accept-Encoding"] = {
            "description": "The encodings there are",
            "schema": {"type": "string"},
        }
    if any(STATUS[code].retryable for code in codes):
        response["headers"]["Retry-After"] = {"description": "Seconds to wait", "schema": {"type": "integer"}}
    if Code.RATE_LIMITED in codes:
        response["headers"].update(QUOTA_HEADERS)
    return response


def success_response(description: str, schema: Json) -> Json:
    """A JSON response."""
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def header(name: str, schema: Json) -> Json:
    """An optional request header."""
    return {"name": name, "in": "header", "required": False, "schema": schema}


def query(name: str, schema: Json, description: str) -> Json:
    """An optional query parameter."""
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def reference(name: str) -> Json:
    """A schema of the components."""
    return {"$ref": f"#/components/schemas/{name}"}
