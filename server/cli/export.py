"""The command `sluice export`: it writes all events that match as lines of JSON, to a file or to stdout."""

import asyncio
import sys
from pathlib import Path

import click

from server.cli.commands import Command
from server.cli.counts import counted
from server.cli.output import ReaderGone
from server.cli.remote import Remote, remote_options
from server.runtime.logs import announce

STDOUT_NAME = "-"


@click.command("export", cls=Command)
@click.option("--source", metavar="NAME", help="Only events of this source.")
@click.option("--event-type", metavar="NAME", help="Only events of this type.")
@click.option("--source-id", metavar="ID", help="Only events with this source_id.")
@click.option("--since", metavar="TIME", help="Only events received at this time or later: ISO 8601, UTC by default.")
@click.option("--until", metavar="TIME", help="Only events received before this time.")
@click.option("--output", metavar="FILE", default=STDOUT_NAME, help="Where they go. Without it: stdout.")
@remote_options
def export_command(url: str, key: str, output: str, **filters: str | None) -> None:
    """Write all events that match, oldest first, as lines that sluice import takes.

    FILE has its name only once it is whole. If this command was stopped, the same command goes on after the last line.
    """
    from server.cli.exporting.engine import export_to_file, export_to_stdout  # they take 0.1 s, of every command

    remote = Remote(url, key)
    query = {name: value for name, value in filters.items() if value is not None}
    try:
        if output == STDOUT_NAME:
            announce(f"exported {counted(asyncio.run(export_to_stdout(remote, query)), 'event')}")
        else:
            target = Path(output).resolve()
            announce(f"exported {counted(asyncio.run(export_to_file(remote, query, target)), 'event')} to {output}")
    except ReaderGone:
        sys.exit(1)
