"""How each error looks on the wire: the one table from code to HTTP status and gRPC code. Imports the taxonomy only.

Every code has a row: a code without one fails when it is looked up, and the tests look up all of them.
"""

from http import HTTPStatus
from typing import NamedTuple

from server.core.errors import Code


class Status(NamedTuple):
    """A row of the table. `retryable`: the same request may succeed later, and the answer says after how long."""

    http: HTTPStatus
    grpc: str | None
    """The name of a gRPC code; None for what only HTTP knows."""
    title: str
    retryable: bool = False


STATUS: dict[Code, Status] = {
    Code.MALFORMED_REQUEST: Status(HTTPStatus.BAD_REQUEST, None, "Malformed request"),
    Code.MALFORMED_JSON: Status(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", "Malformed JSON"),
    Code.INVALID_BATCH: Status(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", "Invalid batch"),
    Code.INVALID_HEADER: Status(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", "Invalid header"),
    Code.INVALID_PARAMETER: Status(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", "Invalid parameter"),
    Code.UNAUTHENTICATED: Status(HTTPStatus.UNAUTHORIZED, "UNAUTHENTICATED", "Unauthenticated"),
    Code.INSUFFICIENT_SCOPE: Status(HTTPStatus.FORBIDDEN, "PERMISSION_DENIED", "Insufficient scope"),
    Code.DOMAIN_NOT_ALLOWED: Status(HTTPStatus.FORBIDDEN, None, "Domain not allowed"),
    Code.NOT_FOUND: Status(HTTPStatus.NOT_FOUND, "NOT_FOUND", "Not found"),
    Code.METHOD_NOT_ALLOWED: Status(HTTPStatus.METHOD_NOT_ALLOWED, None, "Method not allowed"),
    Code.UNSUPPORTED_MEDIA_TYPE: Status(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, None, "Unsupported media type"),
    Code.REQUEST_TIMEOUT: Status(HTTPStatus.REQUEST_TIMEOUT, None, "Request timeout"),
    Code.PAYLOAD_TOO_LARGE: Status(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "INVALID_ARGUMENT", "Payload too large"),
    Code.HEADERS_TOO_LARGE: Status(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, None, "Headers too large"),
    Code.IDEMPOTENCY_CONFLICT: Status(HTTPStatus.UNPROCESSABLE_ENTITY, "ALREADY_EXISTS", "Idempotency conflict"),
    Code.RATE_LIMITED: Status(HTTPStatus.TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED", "Rate limited", retryable=True),
    Code.INTERNAL: Status(HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL", "Internal error"),
    Code.UNAVAILABLE: Status(HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE", "Unavailable", retryable=True),
}
