"""The command `sluice migrate`: it brings a database of an older version to the layout of this one."""

import asyncio
from typing import Any

import click

from server.cli.options import database_options, database_settings
from server.runtime.background import LEASE_S
from server.runtime.database import command_database
from server.runtime.logs import announce
from server.runtime.migration import Progress
from server.runtime.output import print_line
from server.settings import DatabaseSettings
from storage.commands import Database
from storage.layout import LAYOUT
from storage.migration import Plan, migrate, plan
from storage.operator_rules import describe
from storage.start import check_writable, errors_at_start, prepare_at_start


@click.command("migrate")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would be done, and write nothing.")
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
        for line in lines_of(found):
            print_line(line)
        if only_plan or not found.is_needed:
            return
        await check_writable(database)
        with errors_at_start():
            notes = await migrate(database, Progress(found, announce).show, LEASE_S)
        await prepare_at_start(database)
        for line in [*notes, f"done: the database has layout {LAYOUT}"]:
            print_line(line)

    async with command_database(settings, prepare=prepare):
        pass


def lines_of(found: Plan) -> list[str]:
    """What a migration would do, for people."""
    if found.version is None:
        return ["nothing to do: the database has no events"]
    if not found.is_needed:
        return [f"nothing to do: the database has layout {found.version}"]
    begin = f"go on after {found.copied:,} of" if found.has_begun else "copy"
    first = f"layout {found.version} to {LAYOUT}: {begin} {found.events:,} events; the old ones are dropped at the end"
    return [first, *map(describe, found.rules)]
