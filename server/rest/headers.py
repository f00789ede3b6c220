"""The request headers that Sluice acts on. Imports the core's errors.

Headers are read from the ASGI scope: Litestar's own form of them costs more than all that is done with them.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from server.core.errors import InvalidHeader

Headers = Mapping[str, list[str]]
"""Values by name in lower case, in the order sent."""

PREFERENCE = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.?)*"?)+')
"""One of several preferences: what stands between commas that are not inside quotes. A quote may stay open, so that
nothing makes a match fail, and the time is linear."""


def headers_of(scope: Mapping[str, Any]) -> Headers:
    """The headers of a request."""
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return headers


def only(headers: Headers, name: str) -> str | None:
    """The value of the header `name`, which is in lower case, or None.

    Raises InvalidHeader where it is given twice: whoever else looks may see the other.
    """
    values = headers.get(name)
    if values is None:
        return None
    if len(values) > 1:
        raise InvalidHeader(f"{name} is given {len(values)} times: give it once")
    return values[0]


def wants_lenient(prefer: Iterable[str]) -> bool:
    """Whether the `Prefer` headers (RFC 7240) ask for lenient handling. Raises InvalidHeader for another handling.

    The first mention counts. Preferences that are not about handling are none of ours, and are passed over.
    """
    for preference in PREFERENCE.findall(",".join(prefer)):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "handling":
            handling: str = value.strip().strip('"').lower()
            if handling not in {"strict", "lenient"}:
                raise InvalidHeader("Prefer: handling may be strict or lenient")
            return handling == "lenient"
    return False
