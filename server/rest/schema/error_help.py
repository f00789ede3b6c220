"""What each error code means and what a client should do, for the page that the `type` of an error leads to."""

from typing import NamedTuple

from server.core.errors import Code


class Help(NamedTuple):
    """Text about one code, in which words in backticks are code."""

    means: str
    to_do: str


ERROR_HELP: dict[Code, Help] = {
    Code.MALFORMED_REQUEST: Help(
        "What arrived is not HTTP/1.1 (RFC 9112). An unknown method is a 501, and another version of HTTP a 505.",
        "Correct the client, or the proxy in front of the server.",
    ),
    Code.MALFORMED_JSON: Help(
        "The body is not JSON, not UTF-8, nested too deeply, or not compressed as `Content-Encoding` says.",
        "Correct the body: `detail` says where it is wrong.",
    ),
    Code.INVALID_BATCH: Help(
        "The body is JSON, but not a batch that can be stored. Nothing was stored.",
        "Correct the events in `errors`, or send `Prefer: handling=lenient` to store the good ones.",
    ),
    Code.INVALID_HEADER: Help(
        "A header has no valid value, or is given twice.", "Correct the header that `detail` names."
    ),
    Code.INVALID_PARAMETER: Help(
        "A query parameter, or a field of a body that is no batch, is unknown, missing, or has no valid value.",
        "Correct the parameter or field that `detail` names.",
    ),
    Code.UNAUTHENTICATED: Help(
        "The API key is missing, unknown, replaced or revoked, or there is more than one.",
        "Send one valid key in one place: `X-API-Key`, or `Authorization` as `Bearer` or `Basic`. `sluice keys create` "
        "makes one.",
    ),
    Code.INSUFFICIENT_SCOPE: Help(
        "The key is valid, but lacks the scope that `detail` names.", "Use a key with that scope."
    ),
    Code.DOMAIN_NOT_ALLOWED: Help(
        "The key has allowed domains, and `Origin` or `Referer` names another host.",
        "Send from a server, or use a key with that domain (`--allow-domain`).",
    ),
    Code.NOT_FOUND: Help(
        "There is nothing at this path, or the tenant has nothing with this id.", "Correct the path or the id."
    ),
    Code.CONFLICT: Help("The tenant has another thing of this name.", "Use another name, or change what has it."),
    Code.GONE: Help(
        "The database no longer has what was stored after a resume token.",
        "Follow again without the token, with the time in `since`. Some events may come a second time: compare ids.",
    ),
    Code.METHOD_NOT_ALLOWED: Help("The path exists, but not with this method.", "Use a method that `Allow` names."),
    Code.UNSUPPORTED_MEDIA_TYPE: Help(
        "The body has a `Content-Type` or `Content-Encoding` that Sluice does not read.",
        "Send `application/json`, or NDJSON with `source` in the query; plain or with gzip or zstd.",
    ),
    Code.REQUEST_TIMEOUT: Help(
        "The request stopped arriving: the head for 10 s, or the body for 30 s.",
        "Send the request without a pause, and retry on a new connection.",
    ),
    Code.PAYLOAD_TOO_LARGE: Help(
        "The body is over 10 MiB, before or after decompression, or the batch is over 32 MiB as BSON.",
        "Send fewer events at a time.",
    ),
    Code.HEADERS_TOO_LARGE: Help(
        "The request line and headers are over 64 KiB.", "Send fewer or smaller headers, cookies among them."
    ),
    Code.IDEMPOTENCY_CONFLICT: Help(
        "The `Idempotency-Key` was used with another batch or another handling. Nothing was stored.",
        "Send a new batch under a new key, and a retry exactly as it was first sent.",
    ),
    Code.RATE_LIMITED: Help(
        "The key has used up its requests of this minute. Nothing was stored.",
        "Retry after the seconds in `Retry-After`. `RateLimit` says how much is left.",
    ),
    Code.INTERNAL: Help("A bug in the server.", "Report it to the operator, whose log says where it is."),
    Code.UNAVAILABLE: Help(
        "The database cannot be reached or is slow, or the server is full or draining. For a batch, `outcome` says "
        "whether a part of it may be stored, and for a raw body `events_received` how many events certainly are.",
        "Retry after the seconds in `Retry-After`. If `outcome` is `unknown`, use the same `Idempotency-Key`.",
    ),
}
