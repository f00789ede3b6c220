"""The work of a worker process. Only the supervisor starts it (`worker_process.py`).

Its settings come as one line of JSON on stdin, which keeps passwords out of process lists. It sends messages to the
supervisor on stdout (`messages.py`). It drains on SIGTERM, and at the end of stdin, which means that the supervisor
is gone.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from contextlib import suppress
from typing import Never

import msgspec
import uvloop

from server.core.errors import ConfigurationError
from server.runtime.composition import run_worker
from server.runtime.logs import configure_logging, place_of
from server.runtime.loops import in_background
from server.runtime.messages import (
    HEARTBEAT_S,
    Draining,
    Heartbeat,
    Message,
    Misconfigured,
    Ready,
    Unloadable,
    encode_line,
)
from server.settings import Settings

GC_THRESHOLDS = (10_000, 20, 20)
"""How rarely Python's garbage collector runs: after 10,000 new objects, not 700. Decoded JSON is many objects and no
cycles, so this costs no memory. 1,000-event batches gain 10 % (Motor) to 15 % (PyMongo). Objects that were made at the
start are frozen, so the collector never visits them."""

log = logging.getLogger("sluice")


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or the end of stdin, then drain."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(sys.stdin.fileno(), on_supervisor_gone, stop)
    async with in_background(send_heartbeats(), announce_drain(stop)):
        await run_worker(settings, on_ready, stop)


def on_supervisor_gone(stop: asyncio.Event) -> None:
    """Stop: after the settings, stdin becomes readable only at its end."""
    asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
    stop.set()


def on_ready() -> None:
    """Set up the garbage collector for the work to come, and tell the supervisor that requests are accepted."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    send(Ready())


async def announce_drain(stop: asyncio.Event) -> None:
    """Let the supervisor start a successor as soon as this process drains, whatever the reason is."""
    await stop.wait()
    send(Draining())


async def send_heartbeats() -> Never:
    """Tell the supervisor again and again that this event loop runs."""
    while True:
        send(Heartbeat())
        await asyncio.sleep(HEARTBEAT_S)


def send(message: Message) -> None:
    """Send a message to the supervisor. If that is gone, nothing is sent."""
    with suppress(OSError):
        os.write(sys.stdout.fileno(), encode_line(message))


def main() -> None:
    """Read the settings and serve."""
    for number in (signal.SIGHUP, signal.SIGINT):  # they are for the supervisor, which drains this process
        signal.signal(number, signal.SIG_IGN)
    try:
        settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=Settings)
    except msgspec.DecodeError:
        send(Unloadable("its settings are of another version"))
        sys.exit(1)
    configure_logging(settings.log_level, settings.log_format)
    try:
        uvloop.run(run(settings))
    except ConfigurationError as error:
        send(Misconfigured(str(error)))
        sys.exit(2)
    except Exception as error:  # noqa: BLE001 (its text may quote a connection string)
        log.critical("worker failed: %s", place_of(error))
        sys.exit(1)
