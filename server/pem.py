"""Lets Python's `ssl` read a PEM text that is in memory: it takes certificates and keys from files only.

The supervisor reads the TLS files and hands their content to the workers. So a worker that is replaced serves what was
checked, whatever has become of the files meanwhile.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def path_of(content: bytes) -> Iterator[str]:
    """A path under which this process can read `content` inside. Nothing is written to a disk."""
    with os.fdopen(os.memfd_create("pem"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
