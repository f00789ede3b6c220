"""The request headers that change how a batch is handled. Imports the core's errors only."""

import re
from collections.abc import Iterable, Sequence

from server.core.errors import InvalidHeader

MAX_IDEMPOTENCY_KEY_CHARS = 255

PREFERENCE = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.?)*"?)+')
"""One of several preferences: what stands between commas that are not inside quotes. A quote may stay open, so that
nothing makes a match fail, and the time is linear."""

VISIBLE = re.compile(rf"[\x21-\x7e]{{1,{MAX_IDEMPOTENCY_KEY_CHARS}}}")


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


def check_idempotency_key(keys: Sequence[str]) -> None:
    """Raises InvalidHeader unless there is no key, or one of 1 to 255 visible characters."""
    if len(keys) > 1 or not all(map(VISIBLE.fullmatch, keys)):
        raise InvalidHeader(f"Idempotency-Key: one of 1 to {MAX_IDEMPOTENCY_KEY_CHARS} visible ASCII characters")
