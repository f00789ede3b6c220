"""The entry point of a worker process: `python -m server.runtime.worker`. Only the supervisor starts it.

Its settings come as one line of JSON on stdin, which keeps passwords out of process lists. It sends messages to the
supervisor on stdout (`messages.py`). It drains on SIGTERM, and at the end of stdin, which means that the supervisor
is gone.
"""

import asyncio
import gc
import signal
import sys

import msgspec
import uvloop

from server.runtime.composition import run_worker
from server.runtime.logs import configure_logging, place_of
from server.runtime.messages import Ready, encode_line
from server.settings import Settings

GC_THRESHOLDS = (10_000, 20, 20)
"""How rarely Python's garbage collector runs: after 10,000 new objects, not 700. Decoded JSON is many objects and no
cycles, so this costs no memory. 1,000-event batches gain 10 % (Motor) to 15 % (PyMongo). Objects that were made at the
start are frozen, so the collector never visits them."""


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or the end of stdin, then drain."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(sys.stdin.fileno(), on_supervisor_gone, stop)
    await run_worker(settings, on_ready, stop)


def on_supervisor_gone(stop: asyncio.Event) -> None:
    """Stop: after the settings, stdin becomes readable only at its end."""
    asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
    stop.set()


def on_ready() -> None:
    """Set up the garbage collector for the work to come, and tell the supervisor that requests are accepted."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    sys.stdout.buffer.write(encode_line(Ready()))
    sys.stdout.buffer.flush()


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
