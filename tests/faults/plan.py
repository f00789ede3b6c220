"""Which faults a seed inflicts, in which order."""

from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random
from typing import NamedTuple

from tests.faults import command_faults, host_faults, member_faults
from tests.faults.fault import Draw, Fault

KINDS: dict[str, Draw] = {**member_faults.KINDS, **host_faults.KINDS, **command_faults.KINDS}


class Step(NamedTuple):
    """One fault of a plan."""

    kind: str
    fault: Fault


def plan_of(seed: int, count: int, kinds: Sequence[str]) -> list[Step]:
    """`count` faults: the same ones, in the same order, for the same seed."""
    random = Random(seed)
    return [Step(kind, KINDS[kind](random)) for kind in islice(in_random_order(random, kinds), count)]


def in_random_order(random: Random, kinds: Sequence[str]) -> Iterator[str]:
    """All kinds in random order, again and again."""
    while True:
        yield from random.sample(kinds, len(kinds))
