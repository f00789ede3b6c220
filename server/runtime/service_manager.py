"""Tells systemd, or another service manager, what the server does: the protocol of `sd_notify`.

A message is one datagram to the socket that the variable NOTIFY_SOCKET names. Without the variable, there is no one to
tell. The variables are removed from the environment: they are for this process, not for its children.
"""

import asyncio
import logging
import os
import socket
from time import CLOCK_MONOTONIC, clock_gettime_ns

from server.runtime.logs import place_of

SEND_TIMEOUT_S = 1
"""How long a message may wait for space in the socket. The service manager reads at once."""

US_PER_S = 1_000_000

log = logging.getLogger("sluice")


class ServiceManager:
    """The service manager of this process, if it has one."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        interval, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        is_for_us = interval.isdecimal() and pid in {"", str(os.getpid())}
        self._watchdog_s = int(interval) / US_PER_S if is_for_us else 0.0

    def ready(self) -> None:
        """The server accepts requests, with its newest settings."""
        self._send("READY=1")

    def reloading(self) -> None:
        """A reload begins. `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={clock_gettime_ns(CLOCK_MONOTONIC) // 1_000}")

    def stopping(self) -> None:
        """The server drains."""
        self._send("STOPPING=1")

    async def keep_watchdog(self) -> None:
        """Say again and again that this event loop runs, twice in the time after which the manager would end it."""
        while self._watchdog_s:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 2)

    def _send(self, message: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address  # in no file system
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
                sending.settimeout(SEND_TIMEOUT_S)
                sending.sendto(message.encode(), address)
        except OSError as error:
            log.warning("the service manager was not told %s: %s", message.partition("=")[0], place_of(error))
