"""Reads the limits of this process and its container: memory, processors, open files.

MongoDB sizes its cache by the memory of the machine, and Python counts the machine's processors. In a container with
less, mongod would be killed as data grows, and `--workers auto` would start too many workers.
"""

import math
import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from server.core.errors import ConfigurationError

MAX_OPEN_FILES = 65_536
"""The highest limit of open files that is used. Some systems allow 2^30, which would bound no number of connections."""

MIN_OPEN_FILES = 256
"""The lowest limit of open files that is enough: mongod opens one for each collection, index and connection."""

HOW_TO_RAISE_OPEN_FILES = (
    f"with `ulimit -Hn {MAX_OPEN_FILES}` as root, LimitNOFILE={MAX_OPEN_FILES} in a systemd unit, "
    f"or --ulimit nofile={MAX_OPEN_FILES} of a container"
)

ROOT = Path("/")


def raise_file_limit() -> None:
    """Let this process and its children open up to MAX_OPEN_FILES files, if their hard limit allows that.

    Raises ConfigurationError if the hard limit is below MIN_OPEN_FILES.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < MIN_OPEN_FILES and hard != resource.RLIM_INFINITY:
        raise ConfigurationError(
            f"the hard limit of open files is {hard}, and at least {MIN_OPEN_FILES} are needed: raise it, "
            f"{HOW_TO_RAISE_OPEN_FILES}"
        )
    soft = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory_bytes(root: Path = ROOT) -> int:
    """The memory that this process may use: that of the machine, or the limit of its container, in bytes."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    files = ("memory.max", "memory.limit_in_bytes")
    limits = [int(limit) for name in files for limit, *_ in group_values(name, "memory", root) if limit.isdigit()]
    return min([machine, *limits])


def processor_count(root: Path = ROOT) -> int:
    """The number of processors that this process may use. The quota of its container is rounded up."""
    quotas = [(quota, period) for quota, period, *_ in group_values("cpu.max", "cpu", root)]
    first_version = (group_values(f"cpu.cfs_{name}_us", "cpu", root) for name in ("quota", "period"))
    quotas += [(quota, period) for (quota, *_), (period, *_) in zip(*first_version, strict=False)]
    counts = [math.ceil(int(quota) / int(period)) for quota, period in quotas if quota.isdigit()]
    return max(1, min([len(os.sched_getaffinity(0)), *counts]))


def group_values(file: str, controller: str, root: Path) -> Iterator[list[str]]:
    """The words in `file` of this process's control group and of each group above it, in version 1 or 2.

    Inside a container, /proc may name a path that is only to be seen outside. Then only the top of it is read, which
    is the container's own group.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # a system without control groups
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = top / path.strip("/")
        for folder in (group, *group.parents):
            with suppress(OSError):
                yield (folder / file).read_text().split()
            if folder == top:
                break
