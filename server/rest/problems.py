"""Every error answer, as problem+json (RFC 9457). Imports Litestar, the taxonomy and the table of statuses.

Nothing but a `SluiceError`'s own words reaches the caller. What is no `SluiceError` is a fault of ours: the caller
learns that, the log learns its type and place, and nobody sees its text, which may hold what a caller sent.
"""

import logging
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import ClientException, HTTPException, MethodNotAllowedException, NotFoundException

from server.core.errors import (
    Code,
    InternalFault,
    InvalidBatch,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    RequestTimeout,
    SluiceError,
    Unavailable,
)
from server.rest.body import ClientGone
from server.rest.quota import quota_headers
from server.status import STATUS

PROBLEM_JSON = "application/problem+json"

log = logging.getLogger("sluice")


class ProblemEvent(msgspec.Struct):
    """One bad event in an error answer."""

    path: str
    message: str


class Problem(msgspec.Struct, omit_defaults=True):
    """The body of every error answer."""

    type: str
    title: str
    status: int
    detail: str
    code: Code
    errors: list[ProblemEvent] = []
    outcome: str | None = None


def on_sluice_error(request: Request[Any, Any, Any], error: SluiceError) -> Response[bytes]:
    """The answer to a refused request."""
    status = STATUS[error.code]
    headers = quota_headers(request.scope)
    if status.retryable:
        headers["Retry-After"] = str(error.retry_after_s)
    match error:
        case MethodNotAllowed():
            headers["Allow"] = ", ".join(error.allowed)
        case RequestTimeout():
            headers["Connection"] = "close"  # what still arrives is not a request
    body = msgspec.json.encode(problem_of(error))
    return Response(body, status_code=status.http, headers=headers, media_type=PROBLEM_JSON)


def problem_of(error: SluiceError) -> Problem:
    """The body of the answer."""
    status = STATUS[error.code]
    problem = Problem(
        type=f"/schema#{error.code}", title=status.title, status=status.http, detail=error.detail, code=error.code
    )
    match error:
        case InvalidBatch():
            problem.errors = [ProblemEvent(item.path, item.message) for item in error.problems]
        case Unavailable():
            problem.outcome = error.outcome
    return problem


def on_litestar_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """The answer to what Litestar's router refuses."""
    match error:
        case NotFoundException():
            return on_sluice_error(request, NotFound("There is nothing at this path: see /schema for what there is"))
        case MethodNotAllowedException():
            allowed = (error.headers or {}).get("allow", "")
            return on_sluice_error(request, MethodNotAllowed(sorted(set(allowed.split(", ")) - {"OPTIONS"})))
        case ClientException():
            return on_sluice_error(request, MalformedRequest("The Host header names no host"))
    return on_fault(request, error)


def on_client_gone(_request: Request[Any, Any, Any], _error: ClientGone) -> Response[bytes]:
    """Nobody is left to answer; the server drops this."""
    return Response(b"", status_code=STATUS[Code.REQUEST_TIMEOUT].http)


def on_fault(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The answer to a fault of ours."""
    log.error("fault while answering %s", request.method, exc_info=error)
    return on_sluice_error(request, InternalFault())


EXCEPTION_HANDLERS: dict[int | type[Exception], Any] = {
    SluiceError: on_sluice_error,
    HTTPException: on_litestar_error,
    ClientGone: on_client_gone,
    Exception: on_fault,
}
