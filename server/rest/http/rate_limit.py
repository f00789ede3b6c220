"""The headers that tell a client how much of its rate limit is left (draft-ietf-httpapi-ratelimit-headers)."""

from server.core.access.rate_limit import WINDOW_S
from server.core.errors import Quota

POLICY = "default"


def quota_headers(quota: Quota | None) -> dict[str, str]:
    """The headers for a response: none if the key has no limit, or the request did not get as far as the limit."""
    if quota is None:
        return {}
    return {
        "RateLimit-Policy": f'"{POLICY}";q={quota.limit};w={WINDOW_S}',
        "RateLimit": f'"{POLICY}";r={quota.remaining};t={quota.resets_s}',
    }
