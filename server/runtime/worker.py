"""The entry point of a worker process: `python -m server.runtime.worker`, started by the supervisor and by nobody else.

Its settings come as one line of JSON on stdin, which keeps passwords out of process lists. It answers `ready` on
stdout once it accepts requests, and drains on SIGTERM or when stdin ends, which is when the supervisor is gone.
"""

import asyncio
import gc
import signal
import sys

import msgspec
import uvloop

from server.runtime.composition import run_worker
from server.runtime.logs import configure_logging, place_of
from server.settings import Settings

GC_THRESHOLDS = (10_000, 20, 20)
"""Decoded JSON is many objects and no cycles, so collecting seldom costs no memory, and 1,000-event batches gain 10 %
(Motor) to 15 % (PyMongo). What was made at start is not looked at again at all."""


async def run(settings: Settings) -> None:
    """Serve until told to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(sys.stdin.fileno(), supervisor_gone, stop)
    await run_worker(settings, say_ready, stop)


def supervisor_gone(stop: asyncio.Event) -> None:
    """Stop: after the settings, stdin becomes readable only at its end."""
    asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
    stop.set()


def say_ready() -> None:
    """Tell the supervisor."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def main() -> None:
    """Read the settings and serve."""
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=Settings)
    configure_logging(settings.log_level, settings.log_format)
    try:
        uvloop.run(run(settings))
    except Exception as error:  # noqa: BLE001 (its text may quote a connection string)
        sys.exit(f"worker: {place_of(error)}")


if __name__ == "__main__":
    main()
