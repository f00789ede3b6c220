"""Lists the last batches of a tenant that were rejected."""

from collections.abc import Awaitable, Callable

from litestar.types import HTTPScope, Receive, Send
from msgspec import Struct

from server.core.deadline import Deadline
from server.core.errors import Code
from server.core.rejections.model import Rejection
from server.core.rejections.store import MAX_KEPT
from server.core.request import Api
from server.core.times import format_time, from_milliseconds
from server.rest.events import encode_json
from server.rest.http.disconnect import for_present_client
from server.rest.http.headers import credentials_of, headers_of
from server.rest.http.problems import ProblemEvent, problem_events
from server.rest.http.responses import send_json
from server.rest.query import number, parse_query
from server.services import Services


class RejectionBody(Struct):
    """A batch that was rejected, in whole or in part."""

    time: str
    protocol: Api
    key_id: str
    code: Code
    detail: str
    errors: list[ProblemEvent]
    """The first bad events."""
    size: int | None
    """Bytes of the body or message; null if it was rejected before it was read."""


def list_rejections(services: Services) -> Callable[[HTTPScope, Receive, Send], Awaitable[None]]:
    """`GET /api/v1/rejections`. It raises what `authenticate` does, InvalidParameter and Unavailable."""

    async def respond(scope: HTTPScope, send: Send) -> None:
        deadline = Deadline()
        key = await services.admission.authenticate(credentials_of(headers_of(scope)), "events:read", deadline)
        values = parse_query(scope["query_string"], ("limit",))
        limit = number(values, "limit", default=MAX_KEPT, lowest=1, highest=MAX_KEPT)
        async with services.rejections.newest(key.tenant_id, limit, deadline) as found:
            await send_json(send, encode_json(list(map(rejection_body, found))))

    return for_present_client(respond, services.requests)


def rejection_body(rejection: Rejection) -> RejectionBody:
    """A rejection as it is shown."""
    return RejectionBody(
        time=format_time(from_milliseconds(rejection.time_ms)),
        protocol=rejection.protocol,
        key_id=rejection.key_id,
        code=rejection.code,
        detail=rejection.detail,
        errors=problem_events(rejection.errors),
        size=rejection.size,
    )
