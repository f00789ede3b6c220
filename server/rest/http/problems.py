"""Renders errors as problem+json (RFC 9457)."""

from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import ClientException, HTTPException, MethodNotAllowedException, NotFoundException

from server.core.errors import ClientGone, Code, MalformedRequest, MethodNotAllowed, NotFound
from server.rest.http.headers import quota_headers
from server.status import STATUS, Refusal, refusal_of

PROBLEM_JSON = "application/problem+json"


class ProblemEvent(msgspec.Struct):
    """One bad event in the body of an error response."""

    path: str
    message: str


class ProblemBody(msgspec.Struct, omit_defaults=True):
    """The body of every error response."""

    type: str
    title: str
    status: int
    detail: str
    code: Code
    errors: list[ProblemEvent] = []
    outcome: str | None = None


def problem_body(refusal: Refusal) -> bytes:
    """The body of an error response."""
    status = refusal.status
    return msgspec.json.encode(
        ProblemBody(
            type=f"/schema#{refusal.code}",
            title=status.title,
            status=status.http,
            detail=refusal.detail,
            code=refusal.code,
            errors=[ProblemEvent(error.path, error.message) for error in refusal.errors],
            outcome=refusal.outcome,
        )
    )


def problem_headers(refusal: Refusal) -> dict[str, str]:
    """The headers of an error response, but for type and length."""
    headers = quota_headers(refusal.quota)
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    if refusal.allowed_methods:
        headers["Allow"] = ", ".join(refusal.allowed_methods)
    if refusal.closes_connection:
        headers["Connection"] = "close"
    return headers


def on_error(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The response to a request that raised `error`."""
    refusal = refusal_of(error)
    return Response(
        problem_body(refusal),
        status_code=refusal.status.http,
        headers=problem_headers(refusal),
        media_type=PROBLEM_JSON,
    )


def on_litestar_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """The response to what Litestar's router rejects."""
    match error:
        case NotFoundException():
            return on_error(request, NotFound("There is nothing at this path: see /schema for what there is"))
        case MethodNotAllowedException():
            allowed = (error.headers or {}).get("allow", "")
            return on_error(request, MethodNotAllowed(sorted(set(allowed.split(", ")) - {"OPTIONS"})))
        case ClientException():
            return on_error(request, MalformedRequest("The Host header names no host"))
    return on_error(request, error)


def on_client_gone(_request: Request[Any, Any, Any], _error: ClientGone) -> Response[bytes]:
    """A response that nobody reads: the server drops it."""
    return Response(b"", status_code=STATUS[Code.REQUEST_TIMEOUT].http)


EXCEPTION_HANDLERS: dict[int | type[Exception], Any] = {
    HTTPException: on_litestar_error,
    ClientGone: on_client_gone,
    Exception: on_error,
}
