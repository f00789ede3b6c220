"""The memory of this process: how much it takes, and how free memory is returned to the system.

The C library keeps what it has freed. A worker that held much for a moment would keep it for good, and an operator
could not tell that from a leak.
"""

import ctypes
from pathlib import Path

PAGE_BYTES = 4096


def memory_bytes() -> int:
    """The resident memory of this process; 0 on a system that does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:
        return 0


def return_free_memory() -> None:
    """Give memory that is free in the C library's heap back to the system, so that `memory_bytes` does not count it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
