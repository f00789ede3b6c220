"""How many connections REST may have, so that they never use up the file descriptors of the worker."""

import resource
from collections.abc import Sized

CONNECTIONS_SHARE = 2
"""REST uses one in 2 of the file descriptors. The others are for gRPC, the database and files."""

REJECTED_SHARE = 8
"""One in 8 more is for connections past that, until they have read why they are rejected. Others are closed at once."""


def is_full(connections: Sized) -> bool:
    """Whether these are more connections than are served."""
    return len(connections) > _descriptors() // CONNECTIONS_SHARE


def is_overfull(connections: Sized) -> bool:
    """Whether these are more connections than are even answered."""
    return len(connections) > _descriptors() // CONNECTIONS_SHARE + _descriptors() // REJECTED_SHARE


def _descriptors() -> int:
    """The limit on file descriptors of this process, which an operator may change while it runs."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
