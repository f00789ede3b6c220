"""The site of a seed: a replica set of three, and two hosts of Sluice that share it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.harness import Server, wait_until
from tests.support.mongod import ReplicaSet
from tests.support.ports import free_ports

HOSTS = (("--workers", "2"), ("--workers", "1", "--driver", "pymongo"))
"""The options of the hosts: two workers and one, and both drivers."""


class Host(Server):
    """A `sluice serve` with fixed ports, which knows how many workers it should have."""

    def __init__(self, data_dir: Path, mongodb_url: str, *options: str) -> None:
        port, grpc_port = map(str, free_ports(2))
        ports = ("--port", port, "--grpc-port", grpc_port)
        super().__init__(data_dir, *options, "--mongodb-url", mongodb_url, *ports)
        self.workers = int(options[options.index("--workers") + 1])

    def wait_until_replaced(self, worker: int) -> None:
        """Wait until a worker has ended and another has replaced it."""
        wait_until(
            lambda: worker not in (pids := self.worker_pids()) and len(pids) == self.workers,
            "a worker in place of another",
        )


class Site:
    """The database and the hosts, and what happened to them so far."""

    def __init__(self, directory: Path) -> None:
        self.replicas = ReplicaSet(directory / "db")
        self.hosts = [
            Host(directory / str(number), self.replicas.url, *options) for number, options in enumerate(HOSTS)
        ]
        self.exit_statuses: list[int] = []
        """The exit statuses of hosts that were told to drain."""
        self.without_majority: list[tuple[float, float]] = []
        """The times without a majority, as start and end on the monotonic clock."""

    def drain(self, host: Host) -> None:
        """Tell a host to end, and record its exit status."""
        self.exit_statuses.append(host.stop())


@contextmanager
def running_site(directory: Path) -> Iterator[Site]:
    """A running site, with its files in a directory."""
    site = Site(directory)
    with ExitStack() as stack:
        stack.enter_context(site.replicas)
        for host in site.hosts:
            stack.enter_context(host)
        yield site
