"""The commands `sluice keys ...`: they create, list, rotate and revoke API keys in the database."""

import asyncio
import unicodedata
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

import click

from server.cli.commands import Group
from server.cli.options import Duration, Number, database_options, database_settings
from server.cli.output import print_json, print_table
from server.core.access.keys import (
    DEFAULT_RATE_LIMIT,
    MAX_OVERLAP,
    MAX_TENANT_CHARS,
    SCOPES,
    Key,
    Scope,
    is_domain,
    is_tenant_name,
)
from server.core.errors import ConfigurationError
from server.core.times import format_time
from server.runtime.database import command_database
from server.runtime.logs import announce
from server.runtime.output import OutputError, print_line
from storage.keys import Keys

Result = TypeVar("Result")

MAX_RATE_LIMIT = 10_000_000
"""The highest rate limit of a key, in requests a minute. No host can serve that many, so it limits nothing."""

HEADS = ("ID", "TENANT", "NAME", "SCOPES", "DOMAINS", "LIMIT", "CREATED", "LAST USED", "STATE")

OLD_SECRET = "previous_secret_valid_until"

MAX_KEY_NAME_CHARS = 64
"""The longest name of a key, in characters, because names are printed in a table."""


@click.group("keys", cls=Group)
def keys_group() -> None:
    """Create, list, rotate and revoke API keys."""


@keys_group.command("create")
@click.option("--tenant", required=True, metavar="NAME", help="The tenant that the key is for; made if it is new.")
@click.option("--name", default="", help="What the key is for.")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="What it may do. Default: all.")
@click.option("--allow-domain", "domains", multiple=True, metavar="D", help="Pages that may use it: a host, or *.HOST.")
@click.option(
    "--rate-limit",
    type=Number(0, MAX_RATE_LIMIT),
    default=DEFAULT_RATE_LIMIT,
    show_default=True,
    help="Requests a minute; 0 for no limit.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--new", "may_create", is_flag=True, help="Make the embedded database if --data-dir has none.")
@database_options
def create_command(
    tenant: str,
    name: str,
    scopes: tuple[Scope, ...],
    domains: tuple[str, ...],
    rate_limit: int,
    as_json: bool,
    may_create: bool,
    **database: Any,
) -> None:
    """Make a key and print it, the only time it can be seen."""
    if len(name) > MAX_KEY_NAME_CHARS or not name.isprintable():
        raise ConfigurationError(f"--name must be at most {MAX_KEY_NAME_CHARS} printable characters")
    tenant = unicodedata.normalize("NFC", tenant)
    if not is_tenant_name(tenant):
        raise ConfigurationError(f"--tenant must be 1 to {MAX_TENANT_CHARS} visible characters, without spaces")
    scopes = tuple(dict.fromkeys(scopes)) or SCOPES
    domains = tuple(dict.fromkeys(domain.lower() for domain in domains))
    for domain in domains:
        if not is_domain(domain):
            raise ConfigurationError("--allow-domain must be a host, such as example.com, or *.example.com")

    async def create(keys: Keys) -> tuple[Key, str]:
        warn_of_lookalike(tenant, {key.tenant for key in await keys.list()})
        return await keys.create(tenant, name, scopes, domains, rate_limit)

    print_new_key(*with_keys(database, create, may_create), as_json)


@keys_group.command("list")
@click.option("--tenant", metavar="NAME", help="Only this tenant's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@database_options
def list_command(tenant: str | None, as_json: bool, **database: Any) -> None:
    """List the keys, without their secrets."""
    name = None if tenant is None else unicodedata.normalize("NFC", tenant)
    keys = with_keys(database, lambda keys: keys.list(name))
    if as_json:
        print_json([{**key_fields(key), **key_history(key)} for key in keys])
    else:
        print_table(HEADS, map(table_row, keys))


@keys_group.command("rotate")
@click.argument("key_id")
@click.option(
    "--overlap",
    type=Duration(MAX_OVERLAP),
    help=f"How long the old secret still works, such as 24h; {MAX_OVERLAP.days}d at most. Default: it stops at once.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@database_options
def rotate_command(key_id: str, overlap: timedelta | None, as_json: bool, **database: Any) -> None:
    """Give a key a new secret, printed once. A secret that was replaced before stops at once."""
    key, secret = with_keys(database, lambda keys: keys.rotate(key_id, overlap))
    print_new_key(key, secret, as_json)


@keys_group.command("revoke")
@click.argument("key_id")
@database_options
def revoke_command(key_id: str, **database: Any) -> None:
    """Stop a key for good."""
    key = with_keys(database, lambda keys: keys.revoke(key_id))
    print_line(f"revoked {key.id} of tenant {key.tenant}")


def with_keys(
    options: dict[str, Any], work: Callable[[Keys], Coroutine[Any, Any, Result]], may_create: bool = False
) -> Result:
    """Run `work` on the keys of the database that `options` name. Returns what it returns."""

    async def run() -> Result:
        async with command_database(database_settings(options), may_create) as database:
            return await work(Keys(database))

    return asyncio.run(run())


def key_fields(key: Key) -> dict[str, Any]:
    """The fields of a key that are fixed when it is made, for JSON."""
    fields = ("id", "tenant", "tenant_id", "name", "scopes", "allowed_domains", "rate_limit")
    return {**{field: getattr(key, field) for field in fields}, "created_at": format_time(key.created_at)}


def key_history(key: Key) -> dict[str, str | None]:
    """When a key was revoked and last used, and until when its old secret works, for JSON; None if that is not so."""
    fields = ("revoked_at", "last_used_at", OLD_SECRET)
    moments = {field: getattr(key, field) for field in fields}
    return {field: format_time(moment) if moment else None for field, moment in moments.items()}


def warn_of_lookalike(tenant: str, known: set[str]) -> None:
    """Say on stderr if a tenant is new, and its name differs from a known one in upper and lower case only."""
    same = sorted(other for other in known if folded(other) == folded(tenant))
    if same and tenant not in known:
        announce(f"warning: tenant {tenant} is new, and is not the tenant {same[0]}")


def folded(name: str) -> str:
    """What is equal for names that look alike: without case, and without Unicode's ways to write one character."""
    return unicodedata.normalize("NFKC", name).casefold()


def print_new_key(key: Key, secret: str, as_json: bool) -> None:
    """Print a key with its secret. As text, the secret alone goes to stdout, so that a shell can read it."""
    old = {field: value for field, value in key_history(key).items() if field == OLD_SECRET and value}
    try:
        if as_json:
            print_json({"id": key.id, "key": secret, **key_fields(key), **old})
        else:
            print_line(secret)
    except OutputError as error:
        remedy = f"use sluice keys rotate {key.id}, or revoke it"
        if old:  # to rotate it again would stop the secret that its clients have
            remedy = f"make another key for its clients, whose secret works until {old[OLD_SECRET]} UTC"
        raise OutputError(
            f"key {key.id} of tenant {key.tenant} was made, but its secret could not be printed, since {error}: "
            f"{remedy}"
        ) from None
    if not as_json:
        announce(f"Key {key.id} of tenant {key.tenant}. Keep it safe: it cannot be shown again.")
        for until in old.values():
            announce(f"The old secret works until {until} UTC.")


def table_row(key: Key) -> tuple[str, ...]:
    """The cells of a key in the table that `sluice keys list` prints."""
    return (
        key.id,
        key.tenant,
        key.name or "-",
        ",".join(key.scopes),
        ",".join(key.allowed_domains) or "any",
        str(key.rate_limit) if key.rate_limit else "none",
        format_time(key.created_at.replace(microsecond=0)),
        format_time(key.last_used_at.replace(microsecond=0)) if key.last_used_at else "never",
        state_of(key),
    )


def state_of(key: Key) -> str:
    """Whether a key works, and until when its old secret does."""
    if key.revoked_at:
        return "revoked"
    until = key.previous_secret_valid_until
    return f"active, old secret until {format_time(until.replace(microsecond=0))}" if until else "active"
