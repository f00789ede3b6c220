"""The taxonomy of errors: every way in which a request can be rejected.

An error has a `code`, and a `detail` that says what is wrong, where, and what to do. It holds nothing that a client
must not see: no key, no event body, no driver text. `server/status.py` maps each code to HTTP and gRPC.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar, Literal, NamedTuple

from msgspec import Struct

Outcome = Literal["not_stored", "unknown"]
"""What a batch left behind that was answered with `unavailable`: nothing, or perhaps a part. A retry settles it."""

RETRY_AFTER_S = 1
"""The default wait to advise: an election or a restart of the database takes a second or two."""


class Code(StrEnum):
    """The machine-readable name of an error, fixed for clients."""

    MALFORMED_REQUEST = "malformed_request"
    MALFORMED_JSON = "malformed_json"
    INVALID_BATCH = "invalid_batch"
    INVALID_HEADER = "invalid_header"
    INVALID_PARAMETER = "invalid_parameter"
    UNAUTHENTICATED = "unauthenticated"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    DOMAIN_NOT_ALLOWED = "domain_not_allowed"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    GONE = "gone"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    REQUEST_TIMEOUT = "request_timeout"
    PAYLOAD_TOO_LARGE = "payload_too_large"
    HEADERS_TOO_LARGE = "headers_too_large"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    RATE_LIMITED = "rate_limited"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"


class EventError(Struct, frozen=True, order=True):
    """One bad event of a batch: its `index`, the `path` of what is wrong (`events[3].data.price`), and a `message`."""

    index: int
    path: str
    message: str


class Quota(NamedTuple):
    """What a client is told about its rate limit."""

    limit: int
    """Requests a minute."""
    remaining: int
    """Requests left."""
    resets_s: int
    """Seconds until more are left."""


class SluiceError(Exception):
    """A rejection with a `code` and a `detail` for the client."""

    code: ClassVar[Code]
    retry_after_s: int = RETRY_AFTER_S
    """The wait to advise, if the same request may succeed later."""
    quota: Quota | None = None
    """The rate limit of the client's key, if the request got as far as the rate limit."""

    def __init__(self, detail: str, field: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        """The field of the batch that is wrong, such as `source`, if the error is about the batch as a whole."""


class MalformedRequest(SluiceError):
    """What arrived is not a request of the protocol."""

    code = Code.MALFORMED_REQUEST


class MalformedJson(SluiceError):
    """The body is not JSON, not UTF-8, too deep to parse, or its encoding does not decode."""

    code = Code.MALFORMED_JSON


class InvalidBatch(SluiceError):
    """The body is JSON but not a batch that can be stored. `errors` lists the first of its `count` bad events."""

    code = Code.INVALID_BATCH

    def __init__(self, detail: str, errors: Sequence[EventError] = (), field: str = "", count: int = 0) -> None:
        super().__init__(detail, field)
        self.errors = errors
        self.count = count


class InvalidHeader(SluiceError):
    """A request header that Sluice acts on cannot be understood."""

    code = Code.INVALID_HEADER


class InvalidParameter(SluiceError):
    """A query parameter, or a field of a body that is no batch, cannot be understood."""

    code = Code.INVALID_PARAMETER


class Unauthenticated(SluiceError):
    """The key is missing, unknown, rotated or revoked. The client is not told which."""

    code = Code.UNAUTHENTICATED

    def __init__(self) -> None:
        super().__init__("Invalid or missing API key")


class InsufficientScope(SluiceError):
    """The key is valid, but lacks the scope."""

    code = Code.INSUFFICIENT_SCOPE

    def __init__(self, scope: str) -> None:
        super().__init__(f"This key lacks the scope {scope}: create one with `sluice keys create --scope {scope}`")


class DomainNotAllowed(SluiceError):
    """The request comes from a web page whose host is not one of the key's allowed domains."""

    code = Code.DOMAIN_NOT_ALLOWED

    def __init__(self) -> None:
        super().__init__("Domain not allowed")


class NotFound(SluiceError):
    """No such thing, or not for this tenant."""

    code = Code.NOT_FOUND


class Conflict(SluiceError):
    """The tenant has another thing of this name."""

    code = Code.CONFLICT


class Gone(SluiceError):
    """The database no longer has the history after a resume token. `since` is the time from which to read again."""

    code = Code.GONE

    def __init__(self, since: str) -> None:
        super().__init__(
            f"The database no longer has what came after this token: follow again without it, with since={since}. "
            "Some events may come a second time: compare their ids"
        )
        self.since = since


class MethodNotAllowed(SluiceError):
    """The path exists, but not with this method. `allowed` are the methods that it has."""

    code = Code.METHOD_NOT_ALLOWED

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__(f"This path answers {' and '.join(allowed)} only")
        self.allowed = allowed


class UnsupportedMediaType(SluiceError):
    """The body's type or encoding is not one that Sluice reads."""

    code = Code.UNSUPPORTED_MEDIA_TYPE


class RequestTimeout(SluiceError):
    """The request stopped arriving."""

    code = Code.REQUEST_TIMEOUT


class PayloadTooLarge(SluiceError):
    """The body, or what it decodes to, is over a limit."""

    code = Code.PAYLOAD_TOO_LARGE


class HeadersTooLarge(SluiceError):
    """The request line and headers, or what frames the body, are over a limit."""

    code = Code.HEADERS_TOO_LARGE

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The request line and headers are over {max_bytes >> 10} KiB: send fewer or smaller headers")


class IdempotencyConflict(SluiceError):
    """The idempotency key stands for another batch of the tenant."""

    code = Code.IDEMPOTENCY_CONFLICT

    def __init__(self) -> None:
        super().__init__(
            "This idempotency key was used with another batch or another handling: "
            "send a new batch under a new key, and a retry exactly as it was first sent"
        )


class RateLimited(SluiceError):
    """The key has used up its rate limit. `quota` says when requests are admitted again."""

    code = Code.RATE_LIMITED

    def __init__(self, quota: Quota) -> None:
        super().__init__("Rate limit exceeded")
        self.quota = quota
        self.retry_after_s = quota.resets_s


class InternalError(SluiceError):
    """A bug. The client learns no more than that; the log has the type and place of the cause."""

    code = Code.INTERNAL

    def __init__(self, quota: Quota | None = None) -> None:
        super().__init__("Something went wrong on the server, whose log says where")
        self.quota = quota


class Unavailable(SluiceError):
    """The request cannot be served now: the database is away, slow or refuses it, or the server is full or draining.

    `outcome` is what a batch left behind; None for every other request. `events_received` is how many events of a raw
    body are certainly stored; None for every other request.
    """

    code = Code.UNAVAILABLE

    def __init__(
        self, outcome: Outcome | None = None, detail: str | None = None, events_received: int | None = None
    ) -> None:
        super().__init__(detail or UNAVAILABLE_DETAIL[outcome])
        self.events_received = events_received
        self.outcome: Outcome | None = outcome
        self._own_detail = detail

    def for_batch(self) -> "Unavailable":
        """The same error as the response to a batch, which left nothing behind if no outcome is known.

        It is another object: coalesced calls raise one error in several requests.
        """
        return Unavailable(self.outcome or "not_stored", self._own_detail, self.events_received)


UNAVAILABLE_DETAIL: dict[Outcome | None, str] = {
    None: "The database cannot serve this request now: retry after the time in Retry-After",
    "not_stored": "The database cannot take this batch now, and nothing was stored: "
    "retry after the time in Retry-After",
    "unknown": "The database did not confirm in time, and part of the batch may be stored: "
    "retry after the time in Retry-After, with the same Idempotency-Key so that nothing is stored twice",
}


class ClientGone(Exception):
    """The client closed the connection before its request was complete. Nobody is left to tell about it."""


class ConfigurationError(Exception):
    """The operator's settings cannot work. The text is one line that says what is wrong and how to fix it."""
