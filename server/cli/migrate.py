"""The command `sluice migrate`: it brings a database of an older version to the layout of this one."""

import asyncio
import sys
from typing import Any

import click

from server.cli.options import database_options, database_settings
from server.runtime.database import command_database
from server.runtime.output import print_line
from server.settings import DatabaseSettings
from storage.commands import Database
from storage.layout import LAYOUT
from storage.migration import Plan, check_unused, migrate, plan
from storage.start import errors_at_start, prepare_at_start


@click.command("migrate")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would be done, and do nothing.")
@database_options
def migrate_command(only_plan: bool, **options: Any) -> None:
    """Bring a database of an older version to the layout of this one.

    No server may run meanwhile. It can be stopped at any moment, also by kill -9, and goes on when it is run again.
    """
    asyncio.run(run(database_settings(options), only_plan))


async def run(settings: DatabaseSettings, only_plan: bool) -> None:
    """Say what there is to do, and do it unless `only_plan`."""

    async def prepare(database: Database) -> None:
        with errors_at_start():
            found = await plan(database)
            print_line(describe(found))
            if only_plan or not found.is_needed:
                return
            await check_unused(database)
            with click.progressbar(length=found.events, label="copied", file=sys.stderr, show_pos=True) as bar:
                await migrate(database, bar.update)
        await prepare_at_start(database)
        print_line(f"done: the database has layout {LAYOUT}")

    async with command_database(settings, prepare=prepare):
        pass


def describe(found: Plan) -> str:
    """What a migration would do, for people."""
    if found.version is None:
        return "nothing to do: the database has no events"
    if not found.is_needed:
        return f"nothing to do: the database has layout {found.version}"
    begin = "go on to copy" if found.has_begun else "copy"
    return f"layout {found.version} to {LAYOUT}: {begin} {found.events:,} events; the old ones are dropped at the end"
