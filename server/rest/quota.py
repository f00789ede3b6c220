"""The headers that tell a caller how much of the rate limit is left (draft-ietf-httpapi-ratelimit-headers).

Imports Litestar and what a quota is. Every answer after the check carries them, the refused request's included, so the
quota travels with the ASGI scope.
"""

from litestar.types import HTTPScope

from server.core.quota import WINDOW_S, Quota

POLICY = "default"


def remember_quota(scope: HTTPScope, quota: Quota | None) -> None:
    """From now on, answers to the request of `scope` tell this quota."""
    scope["state"]["quota"] = quota


def quota_headers(scope: HTTPScope) -> dict[str, str]:
    """The headers for an answer to a request: none where no limit was looked at."""
    quota: Quota | None = scope["state"].get("quota")
    if quota is None:
        return {}
    return {
        "RateLimit-Policy": f'"{POLICY}";q={quota.limit};w={WINDOW_S}',
        "RateLimit": f'"{POLICY}";r={quota.remaining};t={quota.resets_s}',
    }
