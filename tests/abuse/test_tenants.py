"""No attack on another tenant gets anything. The short form of `python -m tests.abuse`."""

import random

from tests.abuse.tenants import run_attempts
from tests.support.harness import Server

ATTEMPTS = 500
KNOWN = {"200", "201", "400", "404", "405", "415", "422", "OK", "ALREADY_EXISTS", "INVALID_ARGUMENT"}


def test_no_attempt_gets_anything(server: Server) -> None:
    outcome = run_attempts(server, ATTEMPTS, random.randrange(2**32))
    assert sum(outcome.values()) == ATTEMPTS
    assert outcome.keys() <= KNOWN
