"""Progress lines on stderr, so that stdout has nothing but the table and the verdict."""

import sys
import time


def say(line: str) -> None:
    """Print a line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
