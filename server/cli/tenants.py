"""The commands `sluice tenants ...`: they list tenants, set how long events are kept, and delete a tenant."""

import asyncio
import sys
import unicodedata
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click
from tqdm import tqdm

from server.cli.commands import Group
from server.cli.options import database_options, database_settings
from server.cli.output import print_json, print_table
from server.core.deadline import Deadline
from server.core.errors import ConfigurationError
from server.core.tenants.deletion import delete
from server.core.tenants.store import MAX_RETENTION_DAYS, Tenant
from server.core.times import format_time
from server.runtime.database import command_database
from server.runtime.logs import announce
from server.runtime.output import print_line
from storage.commands import Database
from storage.deletion import SETTLED_AFTER_S, StoredDeletion
from storage.tenants import Activity, Tenants

Result = TypeVar("Result")

HEADS = ("NAME", "ID", "CREATED", "RETENTION", "KEYS", "LAST EVENT", "STATE")

KEEP = "none"
"""What stands for no retention: a 0 could also mean that nothing is kept."""


class Days(click.ParamType[int | None]):
    """A number of days, or KEEP."""

    name = f"DAYS|{KEEP}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return the days; None for KEEP. Fails if it is neither."""
        if value == KEEP:
            return None
        if not (str(value).isascii() and str(value).isdigit() and 1 <= int(value) <= MAX_RETENTION_DAYS):
            self.fail(f"{value!r} is neither a whole number from 1 to {MAX_RETENTION_DAYS} nor {KEEP}", param, ctx)
        return int(value)


name_argument = click.argument("name", callback=lambda *given: unicodedata.normalize("NFC", given[2]))
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("tenants", cls=Group)
def tenants_group() -> None:
    """List tenants, set how long their events are kept, and delete them."""


@tenants_group.command("list")
@json_option
@database_options
def list_command(as_json: bool, **database: Any) -> None:
    """List the tenants."""

    async def find(storage: Database) -> list[tuple[Tenant, Activity]]:
        tenants = Tenants(storage)
        found = await tenants.find_all()
        return list(zip(found, await tenants.activities(found), strict=True))

    found = with_database(database, find)
    if as_json:
        print_json([fields_of(*each) for each in found])
    else:
        print_table(HEADS, (row_of(*each) for each in found))


@tenants_group.command("show")
@name_argument
@json_option
@database_options
def show_command(name: str, as_json: bool, **database: Any) -> None:
    """Show a tenant, and how many events it has."""

    async def find(storage: Database) -> tuple[Tenant, Activity, int | None]:
        tenants = Tenants(storage)
        tenant = await tenants.find(name)
        (activity,) = await tenants.activities([tenant])
        return tenant, activity, await tenants.count_events(tenant.id)

    tenant, activity, events = with_database(database, find)
    if as_json:
        print_json({**fields_of(tenant, activity), "events": events})
    else:
        print_table((*HEADS, "EVENTS"), [(*row_of(tenant, activity), count_of(events))])


@tenants_group.command("set-retention")
@name_argument
@click.argument("days", type=Days())
@database_options
def set_retention_command(name: str, days: int | None, **database: Any) -> None:
    """Remove events of a tenant DAYS after they were received; with `none`, keep them.

    A running server begins within a minute, and goes on as events grow old. What it has removed cannot be brought back.
    """
    tenant = with_database(database, lambda storage: Tenants(storage).set_retention(name, days))
    if days is None:
        print_line(f"events of tenant {tenant.name} are kept")
    else:
        before = format_time((datetime.now(UTC) - timedelta(days=days)).replace(microsecond=0))
        print_line(f"events of tenant {tenant.name} are removed after {days} days: now those from before {before} UTC")


@tenants_group.command("delete")
@name_argument
@click.option("--yes", is_flag=True, help="Do not ask for the name again.")
@database_options
def delete_command(name: str, yes: bool, **database: Any) -> None:
    """Delete a tenant with its keys, its events and all else that it has.

    It can be interrupted at any moment, also by kill -9. A running server goes on with it after half a minute, and so
    does the same command.
    """
    if not yes and not sys.stdin.isatty():
        raise ConfigurationError("the name of the tenant cannot be asked for, since stdin is no terminal: give --yes")
    removed = with_database(database, lambda storage: delete_tenant(storage, name, is_sure=yes))
    print_line(f"deleted tenant {name} ({removed:,} documents)")


async def delete_tenant(storage: Database, name: str, *, is_sure: bool) -> int:
    """Delete a tenant, after its name was typed again unless the operator `is_sure`. Returns how much was removed."""
    tenants, deletion = Tenants(storage), StoredDeletion(storage)
    tenant = await tenants.find(name)
    events = await tenants.count_events(tenant.id)
    if not is_sure:
        check_typed(name, f"{count_of(events)} events")
    tenant = await deletion.begin(name, Deadline())
    announce(
        f"The keys of tenant {name} are revoked. Its data is removed in {SETTLED_AFTER_S:.0f} s, when all its "
        "requests have ended. This can be interrupted, and goes on when it is run again"
    )
    removed = 0
    with tqdm(total=events, unit=" documents", unit_scale=True, disable=not sys.stderr.isatty()) as bar:

        def count(documents: int) -> None:
            nonlocal removed
            removed += documents
            bar.update(documents)

        await delete(deletion, tenant, count)
    return removed


def check_typed(name: str, what: str) -> None:
    """Ask for the name of the tenant. Raises ConfigurationError if another is typed."""
    question = f"This deletes tenant {name} with {what} for good. Type its name to go on"
    typed = click.prompt(question, default="", show_default=False, err=True)
    if unicodedata.normalize("NFC", typed) != name:
        raise ConfigurationError("nothing was deleted: this is not the name of the tenant")


def with_database(options: dict[str, Any], work: Callable[[Database], Coroutine[Any, Any, Result]]) -> Result:
    """Run `work` on the database that `options` name. Returns what it returns."""

    async def run() -> Result:
        async with command_database(database_settings(options)) as storage:
            return await work(storage)

    return asyncio.run(run())


def fields_of(tenant: Tenant, activity: Activity) -> dict[str, Any]:
    """The fields of a tenant, for JSON."""
    return {
        "name": tenant.name,
        "id": tenant.id,
        "created_at": tenant.created_at and format_time(tenant.created_at),
        "retention_days": tenant.retention_days,
        "keys": activity.keys,
        "last_event_at": activity.last_event_at and format_time(activity.last_event_at),
        "is_being_deleted": tenant.is_being_deleted,
    }


def row_of(tenant: Tenant, activity: Activity) -> tuple[str, ...]:
    """The cells of a tenant in the table."""
    return (
        tenant.name,
        str(tenant.id),
        moment_of(tenant.created_at),
        f"{tenant.retention_days} days" if tenant.retention_days else KEEP,
        str(activity.keys),
        moment_of(activity.last_event_at),
        "being deleted" if tenant.is_being_deleted else "active",
    )


def moment_of(moment: datetime | None) -> str:
    """A time in a table, to the second."""
    return "-" if moment is None else format_time(moment.replace(microsecond=0))


def count_of(events: int | None) -> str:
    """A number of events, for people: there may be too many to count."""
    return "many" if events is None else f"{events:,}"
