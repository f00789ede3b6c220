"""Chooses what a response is by what its client accepts: the media type and the encoding (RFC 9110 §12.5)."""

from collections.abc import Iterable

from server.core.compression import COMPRESSORS
from server.core.errors import InvalidHeader
from server.rest.http.headers import GZIP_NAMES, IDENTITY, JSON, Headers

NDJSON = "application/x-ndjson"

LINE_TYPES = (NDJSON, "application/ndjson", "application/jsonl", "application/x-jsonlines")
"""The names of lines of JSON. None is registered, and clients use all of them."""

VARY = (b"vary", b"Accept, Accept-Encoding")

PREFERRED = ("zstd", "gzip", IDENTITY)
"""Of encodings that a client likes equally, the first is taken. zstd is smaller and quicker."""

LEAST = 1e-6
"""How much a client likes identity if it does not name it: it accepts it, but rather has what it names."""


def wants_lines(headers: Headers) -> bool:
    """Whether the client asks for lines of JSON. It must name them, and not like JSON as much or more.

    A client that accepts neither gets JSON, as RFC 9110 allows.
    """
    if "accept" not in headers:
        return False
    accepted = qualities(headers["accept"])
    lines, json = max(accepted.get(name, 0.0) for name in LINE_TYPES), accepted.get(JSON)
    if json is not None:
        return lines > json
    return lines > 0 and lines >= accepted.get("application/*", accepted.get("*/*", 0.0))


def response_encoding(headers: Headers) -> str:
    """The encoding that the client likes best: gzip, zstd or identity.

    Raises InvalidHeader for a client that accepts none of them.
    """
    accepted = qualities(headers.get("accept-encoding", ()))
    others = accepted.get("*", 0.0)
    likes = {name: accepted.get(name, others) for name in COMPRESSORS}
    likes["gzip"] = max(accepted.get(name, likes["gzip"]) for name in GZIP_NAMES)
    likes[IDENTITY] = accepted.get(IDENTITY, accepted.get("*", LEAST))
    best = max(PREFERRED, key=lambda name: likes[name])
    if not likes[best]:
        raise InvalidHeader("Accept-Encoding: accept one of identity, gzip and zstd")
    return best


def qualities(values: Iterable[str]) -> dict[str, float]:
    """How much a client likes each of what it names, from 0 to 1. What cannot be understood is not accepted."""
    found: dict[str, float] = {}
    for item in ",".join(values).split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        if name:
            found[name] = max(quality(parameters), found.get(name, 0.0))
    return found


def quality(parameters: Iterable[str]) -> float:
    """The weight among the parameters of what a client names; 1 if there is none."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return 0.0
            return weight if 0 <= weight <= 1 else 0.0
    return 1.0
