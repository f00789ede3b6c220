"""API keys: their secrets, scopes and allowed domains.

Only the client knows a secret; Sluice stores its hash. Secrets are 256 random bits, so a plain SHA-256 is enough.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, get_args
from urllib.parse import urlsplit
from uuid import UUID

from msgspec import Struct

from server.core.errors import DomainNotAllowed, InsufficientScope, SluiceError, Unauthenticated

Scope = Literal["events:write", "events:read", "rules:read", "rules:write"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

DEFAULT_RATE_LIMIT = 1_000
"""Requests a minute that a key may make unless it is given another limit; 0 means no limit."""

MAX_TENANT_CHARS = 64
"""The length of a tenant's name, which must fit into a table."""

SECRET_PREFIX = "slc_"
SECRET_BYTES = 32
MAX_SECRET_CHARS = 100
"""The length of the longest secret that is looked up: twice that of a real one."""

MAX_OVERLAP = timedelta(days=7)
"""The longest time that a key may have two secrets: enough to change all clients, and an end of each leak."""

DOMAIN = re.compile(r"(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Credentials(Struct, frozen=True):
    """What a request says about who sends it."""

    secret: str | None
    """The API key."""
    origin: str | None = None
    """The header `Origin`, which browsers send and servers do not."""
    referer: str | None = None
    error: SluiceError | None = None
    """What is wrong with the headers of the page. The key and its scope are checked before."""


class Key(Struct, frozen=True, kw_only=True):
    """An API key as operators see it: everything but the secret."""

    id: str
    tenant: str
    tenant_id: UUID
    name: str
    scopes: tuple[Scope, ...]
    allowed_domains: tuple[str, ...]
    rate_limit: int
    created_at: datetime
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    previous_secret_valid_until: datetime | None = None
    """When the secret before this one stops, or has stopped; None if it stopped at once."""

    def check(self, credentials: Credentials, scope: Scope) -> None:
        """Raises InsufficientScope if the key lacks `scope`, and DomainNotAllowed if its allowed domains say so.

        Raises InvalidHeader if the headers of the page are wrong.
        A domain counts only if a web page sent the request: then `Origin` is given, or else `Referer`.
        """
        if scope not in self.scopes:
            raise InsufficientScope(scope)
        if credentials.error is not None:
            raise credentials.error
        page = credentials.referer if credentials.origin is None else credentials.origin
        if self.allowed_domains and page is not None and not is_allowed(host_of(page), self.allowed_domains):
            raise DomainNotAllowed


def new_secret() -> str:
    """A new secret: `slc_` and 256 random bits in base64url."""
    return SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def digest(secret: str) -> bytes:
    """The stored form of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def digest_of(secret: str | None) -> bytes:
    """The digest of a secret that a client sent. Raises Unauthenticated if it cannot be a secret."""
    if secret is None or not secret.startswith(SECRET_PREFIX) or len(secret) > MAX_SECRET_CHARS:
        raise Unauthenticated
    return digest(secret)


def is_tenant_name(name: str) -> bool:
    """Whether `name` is 1 to 64 visible characters."""
    return 1 <= len(name) <= MAX_TENANT_CHARS and name.isprintable() and not any(map(str.isspace, name))


def is_domain(domain: str) -> bool:
    """Whether `domain` is a lower-case host name, or `*.` and one."""
    return DOMAIN.fullmatch(domain) is not None


def is_allowed(host: str | None, allowed_domains: Sequence[str]) -> bool:
    """Whether `host` is one of the domains: `d` is d itself, `*.d` every subdomain of d."""
    return host is not None and any(
        host.endswith(domain.removeprefix("*")) if domain.startswith("*.") else host == domain
        for domain in allowed_domains
    )


def host_of(page: str) -> str | None:
    """The host of an `Origin` or `Referer`, in lower case and without its port; None for `null` and nonsense."""
    try:
        return urlsplit(page).hostname
    except ValueError:
        return None
