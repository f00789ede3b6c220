"""Faults of Sluice's own processes: workers crash or end, and hosts drain under load."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from random import Random

from tests.faults.fault import Draw, Fault
from tests.faults.site import HOSTS, Site


@contextmanager
def worker_signalled(number: int, index: int, site: Site) -> Iterator[None]:
    """A worker of a host gets a signal. Its supervisor replaces it."""
    worker = site.hosts[index].worker_pids()[0]
    os.kill(worker, number)
    yield
    site.hosts[index].wait_until_replaced(worker)


@contextmanager
def all_workers_killed(site: Site) -> Iterator[None]:
    """Every worker of every host crashes."""
    workers = [(host, worker) for host in site.hosts for worker in host.worker_pids()]
    for _, worker in workers:
        os.kill(worker, signal.SIGKILL)
    yield
    for host, worker in workers:
        host.wait_until_replaced(worker)


@contextmanager
def drained(index: int, site: Site) -> Iterator[None]:
    """A host is told to end under load. Then it is started again."""
    site.drain(site.hosts[index])
    yield
    site.hosts[index].start()


def signal_worker(number: int) -> Draw:
    """A worker of either host gets a signal."""

    def draw(random: Random) -> Fault:
        index = random.randrange(len(HOSTS))
        return Fault(partial(worker_signalled, number, index), f"of host {index}")

    return draw


def drain(random: Random) -> Fault:
    """Either host drains."""
    index = random.randrange(len(HOSTS))
    return Fault(partial(drained, index), f"host {index}")


def kill_all(_: Random) -> Fault:
    """Every worker is killed."""
    return Fault(all_workers_killed, is_survivable=False)


KINDS: dict[str, Draw] = {
    "kill -9 of a worker": signal_worker(signal.SIGKILL),
    "SIGTERM of a worker": signal_worker(signal.SIGTERM),
    "kill -9 of all workers": kill_all,
    "SIGTERM of sluice serve": drain,
}
