"""How each error looks over HTTP and gRPC: the one table from error code to status, and `refusal_of`, which reads it.

Every code has a row. The tests look up all of them.
"""

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import NamedTuple

from server.core.errors import (
    Code,
    EventError,
    Gone,
    InternalError,
    InvalidBatch,
    MethodNotAllowed,
    Outcome,
    Quota,
    RequestTimeout,
    SluiceError,
    Unavailable,
)
from server.core.refusals import log_refusal

log = logging.getLogger("sluice")


class Status(NamedTuple):
    """A row of the table."""

    http: HTTPStatus
    grpc: str | None
    """The name of a gRPC code; None if the error exists over HTTP only."""
    title: str
    retryable: bool = False
    """Whether the same request may succeed later. The response then says after how many seconds."""


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
    Code.CONFLICT: Status(HTTPStatus.CONFLICT, "ABORTED", "Conflict"),
    Code.GONE: Status(HTTPStatus.GONE, "OUT_OF_RANGE", "Gone"),
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


class Refusal(NamedTuple):
    """All that a client is told about an error. A renderer only writes these fields in its protocol."""

    code: Code
    status: Status
    detail: str
    errors: Sequence[EventError]
    """The bad events of a batch."""
    outcome: Outcome | None
    events_received: int | None
    """How many events of a raw body are certainly stored."""
    retry_after_s: int | None
    quota: Quota | None
    allowed_methods: Sequence[str]
    """The methods that the path has, if the request's is not one of them."""
    since: str | None
    """The time from which to read again what a resume token no longer reaches."""
    closes_connection: bool
    """Whether the connection cannot be used for another request."""


def refusal_of(error: Exception) -> Refusal:
    """What a client is told about `error`.

    Anything but a SluiceError is a bug. The client is told just that, and the log gets its type and place. Nobody gets
    its text, which may hold what a client sent. The error's frames are forgotten then.
    """
    refusal = describe(error)
    forget_frames(error)
    return refusal


def describe(error: Exception) -> Refusal:
    """What a client is told about `error`, which is logged."""
    if not isinstance(error, SluiceError):
        log.error("internal error", exc_info=error)
        error = InternalError()
    elif error.__cause__ is not None:
        log.error("internal error", exc_info=error.__cause__)
    status = STATUS[error.code]
    log_refusal(error.code)
    return Refusal(
        code=error.code,
        status=status,
        detail=error.detail,
        errors=error.errors if isinstance(error, InvalidBatch) else (),
        outcome=error.outcome if isinstance(error, Unavailable) else None,
        events_received=error.events_received if isinstance(error, Unavailable) else None,
        retry_after_s=error.retry_after_s if status.retryable else None,
        quota=error.quota,
        allowed_methods=error.allowed if isinstance(error, MethodNotAllowed) else (),
        since=error.since if isinstance(error, Gone) else None,
        closes_connection=isinstance(error, RequestTimeout),
    )


def forget_frames(error: BaseException | None) -> None:
    """Drop the traceback of an error, and what it followed from.

    The frames of a traceback hold the request, and often the error too. Such a cycle would keep a decoded body of
    10 MiB until the garbage collector looks at old objects.
    """
    if error is not None:
        before = {error.__cause__, error.__context__}
        error.__traceback__ = error.__cause__ = error.__context__ = None
        for each in before:
            forget_frames(each)
