"""The command `sluice tail`: it prints events as they are stored."""

import asyncio
import os
import signal
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import click

from server.cli.commands import Command
from server.cli.options import DURATION, DURATION_UNITS, Number
from server.cli.output import ReaderGone
from server.cli.remote import Remote, remote_options
from server.core.times import format_time

MAX_LAST = 10_000
"""The most events of --last: 10 pages of the list. For more, --since finds the start without them."""


class Since(click.ParamType[str]):
    """A time as the server reads it, or how long ago it was, such as `1h`."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the time. Fails for one that is too long ago to be a date. The server checks other forms."""
        match = DURATION.fullmatch(str(value))
        if match is None:
            return str(value)
        try:
            return format_time(datetime.now(UTC) - int(match["number"]) * DURATION_UNITS[match["unit"]])
        except OverflowError:
            self.fail(f"{value!r} is before the year 1", param, ctx)


@click.command("tail", cls=Command)
@click.option("--source", metavar="NAME", help="Only events of this source.")
@click.option("--event-type", metavar="NAME", help="Only events of this type.")
@click.option(
    "--since", type=Since(), help="First those received since then: ISO 8601, UTC by default, or 30m, 1h, 7d."
)
@click.option("--last", type=Number(1, MAX_LAST), help=f"First the newest N, up to {MAX_LAST:,}.")
@remote_options
def tail_command(url: str, key: str, since: str | None, last: int | None, **names: str | None) -> None:
    """Print events as they are stored: readable lines on a terminal, JSON lines in a pipe. Ctrl-C ends it.

    It goes on by itself after a lost connection or a restart of the server, without a gap and with no event twice.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end_at_once)
    if since is not None and last is not None:
        raise click.UsageError("--since and --last exclude each other: give one of them")
    from server.cli.following.engine import Start, follow  # it takes 0.1 s, of every command

    where = {name: value for name, value in names.items() if value is not None}
    with suppress(ReaderGone):
        asyncio.run(follow(Remote(url, key), where, Start(since, last or 0)))


def end_at_once(*_: object) -> None:
    """End with status 0: whoever stops a tail has seen enough. A write to a pipe that is not read does not hold it."""
    os._exit(0)
