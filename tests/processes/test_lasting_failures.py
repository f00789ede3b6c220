"""Inserts that fail for longer than a request may take: 503, with the true outcome.

Set SLUICE_LONG=1 for every way to fail.
"""

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.support.group_commit import AT_ONCE, FAILURES, Host, start
from tests.support.logs import assert_no_internal_errors
from tests.support.mongod import failing_inserts
from tests.support.pressure import (
    STORED,
    UNAVAILABLE,
    Response,
    SentRequest,
    check_stored,
    codes,
    held_inserts,
    responses_of,
)

LONG = "SLUICE_LONG" in os.environ

HELD = "held"

LATEST_S = 18.0
"""A request may take 10 s. On a busy machine it ends later, but before two such times have passed."""

LASTING = [HELD, "WriteConcernTimeout", *(["NotWritablePrimary", "closed"] if LONG else [])]
"""Failures that last longer than a request: an insert that never ends, or one of FAILURES."""


class Lasted(NamedTuple):
    """A failure that lasted, and the requests meanwhile."""

    failure: str
    host: Host
    sent: list[SentRequest]
    said: list[Response]
    took: list[float]


def outlast(stack: ExitStack, path: Path, failure: str) -> Lasted:
    """Send two requests every 0.1 s for 1 s, and wait for their responses."""
    host = start(stack, path)
    lasting = held_inserts(host.mongo) if failure == HELD else failing_inserts(host.mongo, **FAILURES[failure])

    def answered(request: SentRequest) -> tuple[Response, float]:
        response = request.response()
        return response, time.monotonic() - request.at

    with ThreadPoolExecutor(40) as threads:
        begun = time.monotonic()
        sent, waiting = [], []
        with lasting:
            for number in range(10):
                for request in host.clients.both(host.keys[number % 2]):
                    sent.append(request)
                    waiting.append(threads.submit(answered, request))
                time.sleep(max(0.0, begun + 0.1 * number - time.monotonic()))
            results = [future.result() for future in waiting]
        said = [response for response, _ in results]
        took = [seconds for _, seconds in results]
        return Lasted(failure, host, sent, said, took)


def test_what_lasts_longer_than_a_request_is_503(tmp_path: Path) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(len(LASTING)) as threads:
        lasted = list(threads.map(lambda name: outlast(stack, tmp_path / name, name), LASTING))
        for failure, host, sent, said, took in lasted:
            assert codes(said) == {UNAVAILABLE: 20}, failure
            assert 9 < min(took) <= max(took) < LATEST_S, (failure, took)
            again = [request for key in host.keys for request in host.clients.both(key)]
            again_said = responses_of(again)
            assert codes(again_said) == {STORED: 6}, failure
            check_stored(host.mongo, sent + again, said + again_said)
            outcomes = Counter(response.outcome for response in said)
            assert outcomes["unknown"] >= AT_ONCE  # those that were in flight
            assert_no_internal_errors(host.server)
