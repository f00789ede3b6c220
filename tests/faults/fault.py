"""What a fault is: something that is inflicted on a site for as long as a block runs. Imports the site.

What it does to whom is drawn beforehand (which host, how long, which error code), as far as that can be known: who is
primary is not. By the end of the block its cause is gone; what must recover may still be at it.
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
    """Whether the service goes on while it lasts; then it lasts until that is seen."""


Draw = Callable[[Random], Fault]
"""Makes a fault of one kind by chance."""


def lasting(inflict: Inflict, hold_s: float, detail: str = "", is_survivable: bool = True) -> Fault:
    """A fault that lasts for a while, as its detail says."""
    return Fault(inflict, f"{detail} for {hold_s:.1f} s".lstrip(), hold_s, is_survivable)
