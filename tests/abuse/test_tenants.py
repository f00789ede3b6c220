"""No attack on another tenant gets anything. The short form of `python -m tests.abuse`."""

import os
import random

from tests.abuse.tenants import run_attempts
from tests.support.harness import Server

ATTEMPTS = 500
SEED = random.randrange(2**32) if os.environ.get("SLUICE_LONG") else 1
KNOWN = {"200", "201", "400", "404", "405", "415", "422", "OK", "ALREADY_EXISTS", "INVALID_ARGUMENT"}


def test_no_attempt_gets_anything(server: Server) -> None:
    outcome = run_attempts(server, ATTEMPTS, SEED)
    assert sum(outcome.values()) == ATTEMPTS
    assert outcome.keys() <= KNOWN
