"""The request headers that change how a batch is handled. Imports the core's errors only."""

import re
from collections.abc import Iterable

from server.core.errors import InvalidHeader

MAX_IDEMPOTENCY_KEY_CHARS = 255

VISIBLE = re.compile(rf"[\x21-\x7e]{{1,{MAX_IDEMPOTENCY_KEY_CHARS}}}")


def wants_lenient(prefer: Iterable[str]) -> bool:
    """Whether the `Prefer` headers (RFC 7240) ask for lenient handling. Raises InvalidHeader for another handling.

    The first mention counts. Preferences that are not about handling are none of ours, and are passed over.
    """
    for preference in ",".join(prefer).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "handling":
            handling = value.strip().strip('"')
            if handling not in {"strict", "lenient"}:
                raise InvalidHeader("Prefer: handling may be strict or lenient")
            return handling == "lenient"
    return False


def check_idempotency_key(key: str | None) -> None:
    """Raises InvalidHeader unless the key is absent or 1 to 255 visible characters."""
    if key is not None and not VISIBLE.fullmatch(key):
        raise InvalidHeader(f"Idempotency-Key must be 1 to {MAX_IDEMPOTENCY_KEY_CHARS} visible ASCII characters")
