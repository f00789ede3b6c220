"""Faults of commands: the primary fails commands of Sluice, by MongoDB's fail point `failCommand`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Any

from tests.faults.fault import Draw, Fault, lasting
from tests.faults.site import Site
from tests.support.mongod import fail_point

NOT_NOW = (64, 91, 189, 10107, 11600, 11602)
"""WriteConcernTimeout, ShutdownInProgress, PrimarySteppedDown, NotWritablePrimary, InterruptedAtShutdown,
InterruptedDueToReplStateChange."""

COMMANDS = ("insert", "insert", "update", "find")
"""What Sluice sends while it stores batches: events and idempotency records, permits, and reads of keys."""

FAILING_TIMES = (1, 3, 10, 30)
"""How many commands fail. After each, clients and the server itself try again."""

FAILING_S = (0.5, 3.0)
"""Or for how long every command fails."""

BLOCKS = ((300, 40), (2_000, 8), (11_000, 2))
"""For how many milliseconds commands block, and how many do. The last is longer than a request may take. A blocked
command is carried out afterwards."""


@contextmanager
def failing(mode: str | dict[str, int], data: dict[str, Any], site: Site) -> Iterator[None]:
    """The primary fails commands of Sluice."""
    with (
        site.replicas.primary().client() as client,
        fail_point(client, "failCommand", mode, appName="sluice", **data),
    ):
        yield


def fail(random: Random, commands: Sequence[str], text: str, **data: Any) -> Fault:
    """A command fails a number of times, or every time for a while."""
    command = random.choice(commands)
    data["failCommands"] = [command]
    if random.random() < 0.5:
        times = random.choice(FAILING_TIMES)
        return Fault(partial(failing, {"times": times}, data), f"{text}, {times} times {command}")
    hold_s = random.uniform(*FAILING_S)
    return lasting(partial(failing, "alwaysOn", data), hold_s, f"{text}, every {command}", is_survivable=False)


def refuse(random: Random) -> Fault:
    """Commands are refused, and not carried out."""
    code = random.choice(NOT_NOW)
    return fail(random, COMMANDS, str(code), errorCode=code)


def doubt(random: Random) -> Fault:
    """Inserts are carried out, but the primary does not know whether a majority has them."""
    code = random.choice(NOT_NOW)
    return fail(random, ("insert",), str(code), writeConcernError={"code": code, "errmsg": "drawn"})


def hang_up(random: Random) -> Fault:
    """Connections are closed before the response."""
    return fail(random, COMMANDS, "closed", closeConnection=True)


def block(random: Random) -> Fault:
    """Commands are late."""
    command, (block_ms, times) = random.choice(COMMANDS), random.choice(BLOCKS)
    data = {"failCommands": [command], "blockConnection": True, "blockTimeMS": block_ms}
    return Fault(partial(failing, {"times": times}, data), f"{block_ms} ms, {times} times {command}")


KINDS: dict[str, Draw] = {
    "failCommand, error code": refuse,
    "failCommand, writeConcernError": doubt,
    "failCommand, closeConnection": hang_up,
    "failCommand, blockConnection": block,
}
