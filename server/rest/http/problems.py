"""Renders errors as problem+json (RFC 9457)."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import ClientException, HTTPException, MethodNotAllowedException, NotFoundException
from litestar.types import Send

from server.core.errors import (
    ClientGone,
    Code,
    EventError,
    InternalError,
    MalformedRequest,
    MethodNotAllowed,
    NotFound,
    SluiceError,
)
from server.core.request_context import current_request
from server.core.requests import Requests
from server.rest.http.headers import ENCODINGS, NO_STORE, UnsupportedEncoding, quota_headers
from server.rest.http.request_line import UnsupportedRequest
from server.status import STATUS, Refusal, refusal_of

PROBLEM_JSON = "application/problem+json"

CHALLENGE = 'Bearer realm="sluice"'
"""What a 401 asks for (RFC 9110 §15.5.2). It does not ask for `Basic`: a browser would open a login box, and would then
add the key to requests that other sites make."""


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
    since: str | None = None
    events_received: int | None = None
    """How many events of a raw body are certainly stored, if it was not stored as a whole."""


def problem_events(errors: Sequence[EventError]) -> list[ProblemEvent]:
    """Errors as clients see them."""
    return [ProblemEvent(error.path, error.message) for error in errors]


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
            errors=problem_events(refusal.errors),
            outcome=refusal.outcome,
            since=refusal.since,
            events_received=refusal.events_received,
        )
    )


def problem_headers(refusal: Refusal) -> dict[str, str]:
    """The headers of an error response, but for type and length."""
    headers = quota_headers(refusal.quota) | NO_STORE
    request = current_request()
    if request is not None and request.request_id is not None:
        headers["X-Request-ID"] = request.request_id
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(refusal.retry_after_s)
    if refusal.code == Code.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = CHALLENGE
    if refusal.allowed_methods:
        headers["Allow"] = ", ".join(refusal.allowed_methods)
    if refusal.closes_connection:
        headers["Connection"] = "close"
    return headers


async def send_problem(send: Send, error: SluiceError) -> None:
    """Send the response to an error, for an application without Litestar."""
    refusal = refusal_of(error)
    body = problem_body(refusal)
    headers = {"content-type": PROBLEM_JSON, "content-length": str(len(body)), **problem_headers(refusal)}
    fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status.http.value, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def on_error(_request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The response to a request that raised `error`."""
    refusal = refusal_of(error)
    headers = problem_headers(refusal)
    if isinstance(error, UnsupportedEncoding):
        headers["Accept-Encoding"] = ", ".join(ENCODINGS)
    return Response(problem_body(refusal), status_code=refusal.status.http, headers=headers, media_type=PROBLEM_JSON)


def raw_response(error: SluiceError, default_headers: Iterable[tuple[bytes, bytes]], *, is_head: bool) -> bytes:
    """A whole error response as it is sent, after which the connection ends. It has no body if the request is HEAD."""
    refusal = refusal_of(error)
    if isinstance(error, UnsupportedRequest):
        refusal = refusal._replace(status=refusal.status._replace(http=error.http))
    status, body = refusal.status.http, problem_body(refusal)
    headers = {
        "content-type": PROBLEM_JSON,
        "content-length": str(len(body)),
        **{name.lower(): value for name, value in problem_headers(refusal).items()},
        "connection": "close",
    }
    fields = [*default_headers, *((name.encode(), value.encode()) for name, value in headers.items())]
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode(), *(b"%s: %s" % field for field in fields)]
    return b"\r\n".join([*lines, b"", b"" if is_head else body])


def routing_error_of(error: HTTPException) -> SluiceError:
    """What Litestar's router rejects, as an error of ours."""
    match error:
        case NotFoundException():
            return NotFound("There is nothing at this path: see /schema for what there is")
        case MethodNotAllowedException():
            allowed = {*(error.headers or {}).get("allow", "").split(", ")} - {"OPTIONS"}
            return MethodNotAllowed(sorted({*allowed, "HEAD"} if "GET" in allowed else allowed))
        case ClientException():
            return MalformedRequest("The Host header names no host")
    bug = InternalError()
    bug.__cause__ = error
    return bug


def on_client_gone(_request: Request[Any, Any, Any], _error: ClientGone) -> Response[bytes]:
    """A response that nobody reads: the server drops it."""
    return Response(b"", status_code=STATUS[Code.REQUEST_TIMEOUT].http)


def exception_handlers(requests: Requests) -> dict[int | type[Exception], Any]:
    """What makes the responses to errors. A request that no handler has opened ends here: one without a route."""

    def on_last_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        response = on_error(request, error)
        requests.refuse("rest", error)
        return response

    def on_routing_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
        return on_last_error(request, routing_error_of(error))

    return {HTTPException: on_routing_error, ClientGone: on_client_gone, Exception: on_last_error}
