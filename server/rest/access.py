"""Who may send and who may read, by a request's headers. Imports Litestar and the core; it decides nothing."""

from litestar.types import HTTPScope

from server.core.access import Key, Scope
from server.core.deadline import Deadline
from server.core.errors import RateLimited
from server.rest.headers import Headers, only
from server.rest.quota import remember_quota
from server.services import Services


async def admit(services: Services, scope: HTTPScope, headers: Headers, deadline: Deadline) -> Key:
    """The key of a request that may store events.

    Raises Unauthenticated, InsufficientScope, DomainNotAllowed, RateLimited, Unavailable.
    """
    secret = only(headers, "x-api-key")
    try:
        key, quota = await services.admission.admit(secret, lambda key: check(key, headers, "events:write"), deadline)
    except RateLimited as error:
        remember_quota(scope, error.quota)
        raise
    remember_quota(scope, quota)
    return key


async def authenticate(services: Services, headers: Headers, deadline: Deadline) -> Key:
    """The key of a request that may read. Raises Unauthenticated, InsufficientScope, DomainNotAllowed, Unavailable."""
    key = await services.admission.authenticate(only(headers, "x-api-key"), deadline)
    check(key, headers, "events:read")
    return key


def check(key: Key, headers: Headers, scope: Scope) -> None:
    """Raises InsufficientScope or DomainNotAllowed."""
    key.require(scope)
    key.check_domain(only(headers, "origin"), only(headers, "referer"))
