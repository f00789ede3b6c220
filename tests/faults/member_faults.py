"""Faults of members of the replica set: they crash, end, hang or step down. One does, or both secondaries."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.faults.fault import Draw, Fault, Inflict, lasting
from tests.faults.site import Site
from tests.support.harness import wait_until
from tests.support.mongod import Mongod

FREEZE_S = (0.5, 1.5, 4.0, 15.0)
"""Too short for an election; long enough for one; longer than drivers wait; longer than the other members wait, one of
which may have to find another to replicate from."""

OUTAGE_S = (2.0, 4.0, 11.5)
"""Long enough for a lone primary to step down. In the last, requests run out of time."""

FAST_SHUTDOWN = {"setParameter": 1, "shutdownTimeoutMillisForSignaledShutdown": 1_000}
"""How long an ending mongod gives its clients to find another. The default of 15 s would show nothing more."""

STEP_DOWN = {"replSetStepDown": 5, "secondaryCatchUpPeriodSecs": 2, "force": True}
"""A primary steps down even if no secondary catches up in 2 s, and may be elected again after 5 s."""

Members = Callable[[Site], Sequence[Mongod]]


def primary(site: Site) -> Sequence[Mongod]:
    """The primary."""
    return [site.replicas.primary()]


def secondaries(site: Site) -> Sequence[Mongod]:
    """Both secondaries."""
    (first,) = primary(site)
    return [node for node in site.replicas.nodes if node is not first]


def a_secondary(site: Site) -> Sequence[Mongod]:
    """One secondary."""
    return secondaries(site)[:1]


@contextmanager
def killed(members: Members, site: Site) -> Iterator[None]:
    """Members crash, and are started again in the end."""
    nodes = members(site)
    for node in nodes:
        node.kill()
    yield
    for node in nodes:
        node.launch()


@contextmanager
def ended(members: Members, site: Site) -> Iterator[None]:
    """Members are told to end, as for an upgrade, and are started again in the end."""
    nodes = members(site)
    for node in nodes:
        with node.client() as client:
            client.admin.command(FAST_SHUTDOWN)
        node.process.terminate()
    for node in nodes:
        node.process.wait()
    yield
    for node in nodes:
        node.launch()


@contextmanager
def frozen(members: Members, site: Site) -> Iterator[None]:
    """Members hang: their connections stay open, and nothing comes."""
    nodes = members(site)
    for node in nodes:
        node.process.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: all(is_stopped(node.process.pid) for node in nodes), "stopped processes")
        yield
    finally:
        for node in nodes:
            node.process.send_signal(signal.SIGCONT)


@contextmanager
def without_majority(inflict: Inflict, site: Site) -> Iterator[None]:
    """A fault that leaves one member alone. The site records when it did."""
    with inflict(site):
        begun_s = time.monotonic()
        yield
        site.without_majority.append((begun_s, time.monotonic()))


@contextmanager
def stepped_down(site: Site) -> Iterator[None]:
    """The primary steps down."""
    with site.replicas.primary().client() as client:
        client.admin.command(STEP_DOWN)
    yield


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped all threads of a process."""
    try:
        stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):  # a thread that has just ended
        return False
    return {stat.rpartition(")")[2].split()[0] for stat in stats} == {"T"}


def at_once(inflict: Inflict) -> Draw:
    """A fault without random parameters."""
    return lambda _: Fault(inflict)


def freeze(members: Members) -> Draw:
    """Members hang for a while."""
    return lambda random: lasting(partial(frozen, members), random.choice(FREEZE_S), is_survivable=False)


def outage(inflict: Inflict) -> Draw:
    """There is no majority for a while."""
    return lambda random: lasting(partial(without_majority, inflict), random.choice(OUTAGE_S), is_survivable=False)


KINDS: dict[str, Draw] = {
    "kill -9 of the primary": at_once(partial(killed, primary)),
    "kill -9 of a secondary": at_once(partial(killed, a_secondary)),
    "SIGTERM of the primary": at_once(partial(ended, primary)),
    "SIGTERM of a secondary": at_once(partial(ended, a_secondary)),
    "SIGSTOP of the primary": freeze(primary),
    "SIGSTOP of a secondary": freeze(a_secondary),
    "step-down": at_once(stepped_down),
    "kill -9 of both secondaries": outage(partial(killed, secondaries)),
    "SIGSTOP of both secondaries": outage(partial(frozen, secondaries)),
}
