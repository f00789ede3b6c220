"""Finds the API key that a request names: in `X-API-Key`, or in `Authorization`.

It names its key in one place only. Of two keys, a proxy in front may have looked at the other one. In `Authorization`,
only what begins like a key of Sluice is a key. Anything else is meant for others, such as a proxy that passes on the
user's password, and is ignored. So a good `X-API-Key` works beside it.
"""

from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence

from server.core.access.keys import SECRET_PREFIX
from server.core.errors import Unauthenticated

Schemes = Mapping[str, Callable[[str], Sequence[str]]]
"""Schemes by name, in lower case, with what finds the possible places of a key in the value after the name."""


def bearer_token(token: str) -> Sequence[str]:
    """The token of `Bearer` (RFC 6750)."""
    return (token,)


def user_and_password(encoded: str) -> Sequence[str]:
    """The user name and the password of `Basic` (RFC 7617). There are none if they are encoded wrongly."""
    try:
        user, colon, password = b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:  # not base64, or not UTF-8
        return ()
    return (user, password) if colon else ()


def secret_of(api_keys: Sequence[str], authorizations: Sequence[str], schemes: Schemes) -> str | None:
    """The key of a request with these values of `X-API-Key` and of `Authorization`; None if it has none.

    Raises Unauthenticated if there is more than one, or one in an `Authorization` that is given twice.
    """
    if not authorizations:
        secrets = api_keys
    else:
        found = [secret for value in authorizations for secret in secrets_in(value, schemes)]
        if found and len(authorizations) > 1:
            raise Unauthenticated
        secrets = [*api_keys, *found]
    if len(secrets) > 1:
        raise Unauthenticated
    return secrets[0] if secrets else None


def secrets_in(authorization: str, schemes: Schemes) -> list[str]:
    """The keys in a value of `Authorization`. There are none if it has another scheme."""
    scheme, _, rest = authorization.partition(" ")
    find = schemes.get(scheme.lower())
    return [] if find is None else [place for place in find(rest.strip(" ")) if place.startswith(SECRET_PREFIX)]
