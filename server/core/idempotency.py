"""Idempotency keys: what one looks like. Imports the errors only."""

import re
from collections.abc import Sequence

from server.core.errors import InvalidHeader

MAX_IDEMPOTENCY_KEY_CHARS = 255
"""Enough for any id that callers have; it is part of an index."""

VISIBLE = re.compile(rf"[\x21-\x7e]{{1,{MAX_IDEMPOTENCY_KEY_CHARS}}}")


def check_idempotency_key(keys: Sequence[str]) -> None:
    """Raises InvalidHeader unless there is no key, or one of 1 to 255 visible characters."""
    if len(keys) > 1 or not all(map(VISIBLE.fullmatch, keys)):
        raise InvalidHeader(f"Idempotency-Key: one of 1 to {MAX_IDEMPOTENCY_KEY_CHARS} visible ASCII characters")
