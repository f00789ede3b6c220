"""The headers that Sluice reads and writes: parses request heads into values, and formats rate limit headers.

Headers are read from the ASGI scope. Litestar's own form of them costs more than all that is done with them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from server.authorization import Schemes, bearer_token, secret_of, user_and_password
from server.core.access.keys import Credentials
from server.core.access.rate_limit import WINDOW_S
from server.core.errors import InvalidHeader, MalformedRequest, Quota, UnsupportedMediaType
from server.core.ingest.idempotency import parse_idempotency_key
from server.core.ingest.ingest import IngestOptions

Headers = Mapping[str, list[str]]
"""Values by name in lower case, in the order sent. It has those that Sluice reads."""

READ_HEADERS = {
    name.encode(): name
    for name in (
        "accept",
        "accept-encoding",
        "authorization",
        "content-encoding",
        "content-length",
        "content-type",
        "idempotency-key",
        "last-event-id",
        "origin",
        "prefer",
        "referer",
        "transfer-encoding",
        "x-api-key",
    )
}
"""The names of the headers that Sluice reads, as they arrive. Most of a request's headers are others."""

SCHEMES: Schemes = {"bearer": bearer_token, "basic": user_and_password}
"""The schemes of `Authorization` that may hold a key."""

JSON = "application/json"
IDENTITY = "identity"
Handling = Literal["strict", "lenient"]
HANDLINGS: dict[str, Handling] = {"strict": "strict", "lenient": "lenient"}
RATE_LIMIT_POLICY = "default"
ENCODINGS = ("gzip", "zstd")
"""What a body may be compressed by. HTTP has no common meaning of `deflate`."""

GZIP_NAMES = {"gzip", "x-gzip"}
"""HTTP has two names for it."""

NO_STORE = {"cache-control": "no-store"}
"""In every response but the page and its files. A cache must not keep what a key may read: it looks at `Authorization`,
not at `X-API-Key` (RFC 9111 §3)."""

UTF8_NAMES = {"utf-8", "utf8", "utf_8", "u8", "unicode-1-1-utf-8", "us-ascii", "ascii", ""}
"""What clients write for UTF-8, or for the part of it that they use. JSON has no charset at all (RFC 8259 §11)."""

PREFERENCE = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.?)*"?)+')
"""One of several preferences: the text between commas that are not inside quotes. A quote may stay open, so that no
text makes a match fail, and the time is linear."""


class UnsupportedEncoding(UnsupportedMediaType):
    """The body's `Content-Encoding` is not one that Sluice reads. The response names those that are."""


class BodyFormat(NamedTuple):
    """How a body is sent."""

    encoding: str
    length: int | None
    """In bytes; None if the body is chunked."""
    media_type: str = JSON


def headers_of(scope: Mapping[str, Any]) -> Headers:
    """The headers of a request."""
    headers: dict[str, list[str]] = {}
    for sent_name, value in scope["headers"]:
        name = READ_HEADERS.get(sent_name)
        if name is not None:
            headers.setdefault(name, []).append(value.decode("latin-1"))
    return headers


def credentials_of(headers: Headers) -> Credentials:
    """Who sends the request. Raises Unauthenticated for more than one key, as `secret_of` does.

    More than one page is an error that the credentials carry: it is no reason to tell a client whose key is bad.
    """
    secret = secret_of(headers.get("x-api-key", ()), headers.get("authorization", ()), SCHEMES)
    try:
        return Credentials(secret, single_header(headers, "origin"), single_header(headers, "referer"))
    except InvalidHeader as error:
        return Credentials(secret, error=error)


def ingest_options_of(headers: Headers) -> IngestOptions:
    """What the client asks for beside its batch. Raises InvalidHeader."""
    return IngestOptions(
        idempotency_key=parse_idempotency_key(headers["idempotency-key"]) if "idempotency-key" in headers else None,
        lenient="prefer" in headers and wants_lenient(headers["prefer"]),
    )


def body_format_of(headers: Headers, media_types: Sequence[str] = (JSON,)) -> BodyFormat:
    """How the body is sent, which may have one of these types.

    Raises MalformedRequest, InvalidHeader, and UnsupportedMediaType for an unknown type or encoding.
    """
    if "transfer-encoding" in headers and [*map(str.lower, headers["transfer-encoding"])] != ["chunked"]:
        raise MalformedRequest("Transfer-Encoding may be chunked only: a compressed body is named by Content-Encoding")
    media_type = check_content_type(single_header(headers, "content-type") or "", media_types)
    encoding = parse_encoding(single_header(headers, "content-encoding")) if "content-encoding" in headers else IDENTITY
    length = single_header(headers, "content-length")
    return BodyFormat(encoding, None if length is None else int(length), media_type)


def parse_encoding(content_encoding: str | None) -> str:
    """The encoding that a body has, of those listed. Raises UnsupportedEncoding for another one, or for two."""
    names = [name.strip().lower() for name in (content_encoding or "").split(",")]
    encodings = [name for name in names if name not in {"", IDENTITY}] or [IDENTITY]
    encoding = "gzip" if encodings[0] in GZIP_NAMES else encodings[0]
    if len(encodings) > 1 or encoding not in {IDENTITY, *ENCODINGS}:
        raise UnsupportedEncoding(f"Content-Encoding may be identity, {' or '.join(ENCODINGS)}")
    return encoding


def single_header(headers: Headers, name: str) -> str | None:
    """The value of the header `name`, which is in lower case, or None.

    Raises InvalidHeader if it is given twice: a proxy may have looked at the other value.
    """
    values = headers.get(name)
    if values is None:
        return None
    if len(values) > 1:
        raise InvalidHeader(f"{name} is given {len(values)} times: give it once")
    return values[0]


def wants_lenient(prefer: Iterable[str]) -> bool:
    """Whether the `Prefer` headers ask for lenient handling. Raises InvalidHeader for another handling."""
    return handling_of(prefer) == "lenient"


def handling_of(prefer: Iterable[str]) -> Handling | None:
    """The handling that the `Prefer` headers (RFC 7240) ask for, if any. Raises InvalidHeader for an unknown one.

    The first mention counts. Other preferences are ignored, as the RFC asks.
    """
    for preference in PREFERENCE.findall(",".join(prefer)):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "handling":
            handling: str = value.strip().strip('"').lower()
            if handling not in HANDLINGS:
                raise InvalidHeader("Prefer: handling may be strict or lenient")
            return HANDLINGS[handling]
    return None


def check_content_type(content_type: str, media_types: Sequence[str] = (JSON,)) -> str:
    """The type of the body, without parameters. All are forms of JSON, which is always UTF-8.

    Raises UnsupportedMediaType for any other.
    """
    if content_type == JSON:  # as nearly all clients send it
        return JSON
    media_type, *parameters = (part.strip().lower() for part in content_type.split(";"))
    values = [part.partition("=") for part in parameters]
    charsets = {value.strip(" \t'\"") for name, _, value in values if name.strip() == "charset"}
    if media_type not in media_types or not charsets <= UTF8_NAMES:
        raise UnsupportedMediaType(f"Content-Type must be {' or '.join(media_types)}, in UTF-8")
    return media_type


def quota_headers(quota: Quota | None) -> dict[str, str]:
    """The headers that tell a client its rate limit (draft-ietf-httpapi-ratelimit-headers).

    There are none if the key has no limit, or the request was rejected before the limit was checked.
    """
    if quota is None:
        return {}
    return {
        "RateLimit-Policy": f'"{RATE_LIMIT_POLICY}";q={quota.limit};w={WINDOW_S}',
        "RateLimit": f'"{RATE_LIMIT_POLICY}";r={quota.remaining};t={quota.resets_s}',
    }
