"""The request headers that change how a batch is handled. Imports Litestar and the core's errors."""

import re
from collections.abc import Iterable

from litestar.datastructures import Headers

from server.core.errors import InvalidHeader

PREFERENCE = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.?)*"?)+')
"""One of several preferences: what stands between commas that are not inside quotes. A quote may stay open, so that
nothing makes a match fail, and the time is linear."""


def only(headers: Headers, name: str) -> str | None:
    """The value of a header, or None. Raises InvalidHeader where it is given twice: whoever else looks may differ."""
    values = headers.getall(name, [])
    if len(values) > 1:
        raise InvalidHeader(f"{name} is given {len(values)} times: give it once")
    return values[0] if values else None


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
