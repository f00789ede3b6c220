"""What the handlers of a tenant's things share: the key, and the ids in paths."""

from collections.abc import Awaitable, Callable, Mapping
from uuid import UUID

from litestar.types import HTTPScope, Receive, Send

from server.core.access.keys import Scope
from server.core.deadline import Deadline
from server.core.errors import NotFound
from server.rest.http.disconnect import for_present_client
from server.rest.http.headers import credentials_of, headers_of
from server.rest.query import CANONICAL_ID
from server.services import Services

Handler = Callable[[HTTPScope, Receive, Send], Awaitable[None]]


def with_key(
    services: Services, needed: Scope, respond: Callable[[HTTPScope, UUID, Deadline, Send], Awaitable[None]]
) -> Handler:
    """A handler that responds to a request with a good key by `respond`, which gets the key's tenant.

    It raises what `authenticate` and the services do: NotFound, Unavailable.
    """

    async def authenticate(scope: HTTPScope, send: Send) -> None:
        deadline = Deadline()
        key = await services.admission.authenticate(credentials_of(headers_of(scope)), needed, deadline)
        await respond(scope, key.tenant_id, deadline, send)

    return for_present_client(authenticate, services.requests)


def id_of(scope: HTTPScope, parameter: str, not_found: str) -> UUID:
    """An id in a path. Raises NotFound if it cannot be one."""
    path_params: Mapping[str, str] = scope["path_params"]
    if not CANONICAL_ID.fullmatch(path_params[parameter]):
        raise NotFound(not_found)
    return UUID(path_params[parameter])
