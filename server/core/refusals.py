"""Logs rejected requests: a line for a key and an error code at once, and then one with a count every 10 seconds.

An operator sees which client does what wrong. A client that sends ten thousand bad requests a second fills no disk.
"""

import asyncio
import logging
from collections import Counter

from server.core.errors import Code
from server.core.request_context import context_of_key, current_request, note_rejection

LOG_INTERVAL_S = 10
"""The shortest time between two lines about the same key and code."""

MAX_COUNTED = 10_000
"""Pairs of key and code that are counted at a time: some 2 MB. Beyond it, requests are not logged until others end."""

log = logging.getLogger("sluice")

_counts: Counter[tuple[str | None, Code]] = Counter()
"""How many requests were rejected since the last line. A pair is in it while a timer for its next line runs."""


def log_refusal(code: Code) -> None:
    """Log that the current request was rejected, now or with others later.

    The line names its key, unless it had no valid one, or was rejected before its key could be checked. A request that
    its protocol has answered is logged already.
    """
    request = current_request()
    if request is not None and request.answered_with is not None:
        return
    pair = (note_rejection(code), code)
    if pair in _counts:
        _counts[pair] += 1
    elif len(_counts) < MAX_COUNTED and log.isEnabledFor(logging.INFO):
        _counts[pair] = 1
        _log_count(pair)


def _log_count(pair: tuple[str | None, Code]) -> None:
    """Log what was counted, and count again until the next line. If nothing was, forget the pair."""
    count, (key_id, code) = _counts[pair], pair
    if not count:
        del _counts[pair]
        return
    log.info("rejected %d request%s %s: %s", count, "" if count == 1 else "s", describe_key(key_id, code), code)
    _counts[pair] = 0
    asyncio.get_running_loop().call_later(LOG_INTERVAL_S, _log_count, pair, context=context_of_key(key_id))


def describe_key(key_id: str | None, code: Code) -> str:
    """Whose request was rejected, as far as that is known. Without a check, nothing says that its key is a bad one."""
    if key_id is not None:
        return f"of key {key_id}"
    return "without a valid key" if code is Code.UNAUTHENTICATED else "before a check of the key"
