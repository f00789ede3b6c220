"""A fault: something that is inflicted on a site while a block runs.

Its parameters (which host, how long, which error code) are random, and fixed before it starts. Only the primary is
found when it starts. At the end of the block the cause is gone, but the service may still recover.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from random import Random
from typing import NamedTuple

from tests.faults.site import Site

Inflict = Callable[[Site], AbstractContextManager[None]]


class Fault(NamedTuple):
    """A fault, ready to be inflicted."""

    inflict: Inflict
    detail: str = ""
    hold_s: float = 0.0
    """How long it lasts at least."""
    is_survivable: bool = True
    """Whether the service works while the fault lasts. Then the fault lasts until that was seen."""


Draw = Callable[[Random], Fault]
"""Makes a random fault of one kind."""


def lasting(inflict: Inflict, hold_s: float, detail: str = "", is_survivable: bool = True) -> Fault:
    """A fault that lasts for a while, as its detail says."""
    return Fault(inflict, f"{detail} for {hold_s:.1f} s".lstrip(), hold_s, is_survivable)
